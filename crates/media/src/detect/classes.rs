//! Names of classes.

use frameloom_core::catalogue::did_you_mean;
use frameloom_core::{Error, Result};

/// The class of a box over a whole frame on which a detector failed: no model's.
pub(crate) const WHOLE_FRAME: &str = "frame";

/// COCO's 80 classes, in the order of every model trained on them.
pub(super) const COCO: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

/// Numbers of COCO's classes in its own table of 90, in the order of [`COCO`].
pub(super) const COCO_IDS: [usize; 80] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 27, 28,
    31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55,
    56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 67, 70, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 84,
    85, 86, 87, 88, 89, 90,
];

/// COCO's names.
pub(super) fn coco() -> Vec<String> {
    COCO.iter().map(|name| (*name).into()).collect()
}

/// The names of a user's model's classes.
///
/// # Errors
/// Invalid where there are more or fewer labels than classes, or one is what hidden frames are called.
pub(super) fn named(model: &str, classes: usize, labels: Option<&[String]>) -> Result<Vec<String>> {
    if let Some(at) = labels.unwrap_or_default().iter().position(|label| label == WHOLE_FRAME) {
        return Err(Error::invalid(format!(
            "label {}: '{WHOLE_FRAME}' is what detections files call a frame that is hidden whole; name this class of model '{model}' \
             something else",
            at + 1
        )));
    }
    match labels {
        Some(labels) if labels.len() == classes => Ok(labels.to_vec()),
        Some(labels) => Err(Error::invalid(format!(
            "{} labels for the {classes} classes of model '{model}'; give one a line, in the model's order",
            labels.len()
        ))),
        None if classes == COCO.len() => Ok(coco()),
        None => Ok((0..classes).map(|class| class.to_string()).collect()),
    }
}

/// The number of the class called `name`; `_` and `-` stand for a blank, capitals do not matter.
///
/// # Errors
/// Invalid with the nearest name where there is none.
pub(crate) fn class_index(classes: &[String], name: &str) -> Result<u16> {
    let plain = |name: &str| name.trim().to_lowercase().replace(['_', '-'], " ");
    let wanted = plain(name);
    let found = classes.iter().position(|class| plain(class) == wanted);
    found.and_then(|index| u16::try_from(index).ok()).ok_or_else(|| {
        let known: Vec<&str> = classes.iter().map(String::as_str).collect();
        let near = did_you_mean(&wanted, &known);
        let advice = if near.is_empty() && known.len() <= 12 {
            format!("; it has {}", known.join(", "))
        } else {
            near
        };
        Error::invalid(format!("the model has no class '{name}'{advice}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_coco_has_its_place() {
        for (index, name, id) in [
            (0, "person", 1),
            (2, "car", 3),
            (8, "boat", 9),
            (9, "traffic light", 10),
            (11, "stop sign", 13),
            (24, "backpack", 27),
            (45, "bowl", 51),
            (60, "dining table", 67),
            (62, "tv", 72),
            (79, "toothbrush", 90),
        ] {
            assert_eq!((COCO[index], COCO_IDS[index]), (name, id));
        }
        assert!(COCO_IDS.is_sorted_by(|a, b| a < b));
        let mut names = COCO.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 80);
        let text = COCO.join(",");
        assert_eq!(
            super::super::file::sha256(text.as_bytes()),
            "926f2316e64cf89689b16867a3cf2be132dfaf2564c9ee8a1d973fe61164b524"
        );
    }

    #[test]
    fn an_unknown_class_is_told_with_the_nearest() {
        let classes = coco();
        assert_eq!(class_index(&classes, "car").unwrap(), 2);
        assert_eq!(class_index(&classes, "Traffic_Light").unwrap(), 9);
        let error = class_index(&classes, "persn").unwrap_err();
        assert_eq!(error.message(), "the model has no class 'persn', did you mean 'person'?");
        let error = class_index(&["face".into()], "elephant").unwrap_err();
        assert!(error.message().ends_with("; it has face"), "{error}");
    }

    #[test]
    fn labels_are_as_many_as_classes() {
        let labels: Vec<String> = vec!["a".into(), "b".into()];
        assert_eq!(named("m", 2, Some(&labels)).unwrap(), labels);
        for classes in [1, 3] {
            let error = named("m", classes, Some(&labels)).unwrap_err();
            assert!(
                error.message().contains(&format!("2 labels for the {classes} classes")),
                "{error}"
            );
        }
        let error = named("m", 2, Some(&["a".into(), "frame".into()])).unwrap_err();
        assert!(error.message().contains("label 2: 'frame'"), "{error}");
        assert_eq!(named("m", 80, None).unwrap()[8], "boat");
        assert_eq!(named("m", 2, None).unwrap(), ["0", "1"]);
    }
}
