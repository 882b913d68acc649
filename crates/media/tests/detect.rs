//! Finding, following, hiding: over a whole video, wherever it is cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use frameloom_core::detection::{BoxSource, DetectionsHeader, DetectionsLine};
use frameloom_core::spec::{DetectionsFormat, JobSpec, SpecFile};
use support::{Made, clip, ffprobe, frames, lossless, run};

/// A part of a real clip with people who walk, in groups of pictures of half a second.
fn street(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("street.mp4");
    let clip = clip("vtest.avi");
    let clip = clip.to_str().unwrap();
    support::ffmpeg(&[
        "-t",
        "4",
        "-i",
        clip,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        "5",
        "-bf",
        "0",
        "-pix_fmt",
        "yuv420p",
        path.to_str().unwrap(),
    ]);
    path
}

fn detections(dir: &Path) -> (DetectionsHeader, Vec<DetectionsLine>) {
    let text = std::fs::read_to_string(dir.join("detections.jsonl")).unwrap();
    let mut lines = text.lines();
    let header = serde_json::from_str(lines.next().unwrap()).unwrap();
    (header, lines.map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn job(filters: &[&str], segment_us: Option<i64>) -> JobSpec {
    lossless(filters, segment_us)
}

#[test]
fn boxes_ids_and_pixels_are_the_same_wherever_the_video_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let source = street(dir.path());
    for filter in [
        "objects:classes=person:action=fill",
        "objects:classes=person,car:action=boxes:every=3",
        "motion:method=diff:action=boxes",
        "motion:method=flow:action=heatmap:width=320",
    ] {
        let mut all = Vec::new();
        for (name, segment) in [("whole", 60_000_000), ("cut", 500_000)] {
            let place = dir.path().join(name);
            std::fs::create_dir_all(&place).unwrap();
            let made = run(&source, &job(&[filter], Some(segment)), &place, 1).unwrap();
            let cut = made.plan.segments.len();
            assert!(if name == "cut" { cut >= 6 } else { cut == 1 }, "{filter}: {cut}");
            let (header, lines) = detections(&place);
            assert_eq!(header.size, [768, 576]);
            assert_eq!(lines.len(), 40);
            assert!(lines.iter().enumerate().all(|(i, line)| line.frame == i as u64));
            all.push((frames(&made.output, &[], &[]), lines));
        }
        assert!(all[0].1.iter().any(|line| !line.boxes.is_empty()), "{filter}: nothing was found");
        assert_eq!(all[0].1, all[1].1, "{filter}: other boxes");
        assert_eq!(all[0].0, all[1].0, "{filter}: other pixels");
    }
}

#[test]
fn people_are_followed_and_no_track_has_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let source = street(dir.path());
    let spec = job(&["objects:classes=person:action=none:every=2"], None);
    let made = run(&source, &spec, dir.path(), 1).unwrap();
    let (_, lines) = detections(dir.path());
    let mut lives: std::collections::BTreeMap<u32, Vec<u64>> = Default::default();
    for line in &lines {
        for found in &line.boxes {
            assert_eq!(found.class, "person");
            lives.entry(found.track.unwrap()).or_default().push(line.frame);
        }
    }
    // Four to six people are to be seen in these four seconds.
    assert!((3..=14).contains(&lives.len()), "{} tracks", lives.len());
    for (track, frames) in &lives {
        assert!(frames.windows(2).all(|w| w[1] == w[0] + 1), "track {track}: {frames:?}");
    }
    let between = lines.iter().flat_map(|line| &line.boxes);
    let between = between.filter(|found| found.source == BoxSource::Interpolated).count();
    assert!(between > 20, "{between} boxes between the frames that were looked at");
    let told = made.joined.detections.unwrap();
    let boxes: usize = lines.iter().map(|line| line.boxes.len()).sum();
    assert_eq!(told.detectors[0].boxes, boxes as u64);
    assert_eq!(told.detectors[0].tracks, lives.len() as u64);
    assert_eq!(told.frames_hidden, 0);
}

#[test]
fn detections_alone_make_no_video_and_are_given_back_as_regions() {
    let dir = tempfile::tempdir().unwrap();
    let source = street(dir.path());
    let of = |name: &str, spec: &JobSpec| -> Made {
        let place = dir.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        run(&source, spec, &place, 1).unwrap()
    };
    let direct = of("direct", &job(&["objects:classes=person:action=fill:margin=0"], None));
    let mut texts = Vec::new();
    for format in [DetectionsFormat::Jsonl, DetectionsFormat::Csv, DetectionsFormat::Coco] {
        let spec = JobSpec {
            detections_only: Some(format),
            ..job(&["objects:classes=person:action=fill:margin=0"], Some(1_000_000))
        };
        let made = of(format.extension(), &spec);
        assert!(!dir.path().join(format.extension()).join("0.seg").exists());
        assert_eq!(made.joined.frames, 40);
        texts.push(std::fs::read_to_string(&made.output).unwrap());
    }
    let beside = std::fs::read_to_string(dir.path().join("direct/detections.jsonl")).unwrap();
    assert_eq!(texts[0], beside, "the same lines alone and beside a video");
    let boxes: usize = detections(&dir.path().join("direct")).1.iter().map(|l| l.boxes.len()).sum();
    assert!(boxes > 50);
    assert_eq!(texts[1].lines().count(), boxes + 1);
    let coco: serde_json::Value = serde_json::from_str(&texts[2]).unwrap();
    assert_eq!(coco["images"].as_array().unwrap().len(), 40);
    assert_eq!(coco["annotations"].as_array().unwrap().len(), boxes);
    let category = coco["annotations"][0]["category_id"].as_u64().unwrap();
    let names = coco["categories"].as_array().unwrap();
    let named = names.iter().find(|c| c["id"].as_u64() == Some(category)).unwrap();
    assert_eq!(named["name"], "person");
    // The file applied by itself hides the same.
    let file = dir.path().join("direct/detections.jsonl").to_str().unwrap().to_owned();
    let spec = JobSpec {
        files: vec![SpecFile { name: file.clone(), sha256: String::new(), size: 0 }],
        ..job(&[&format!("regions:file={file}:action=fill:shape=box:margin=0")], Some(1_000_000))
    };
    let again = of("again", &spec);
    let differ = frames(&direct.output, &[], &[])
        .iter()
        .zip(frames(&again.output, &[], &[]))
        .filter(|(a, b)| **a != *b)
        .count();
    // Boxes in the file are rounded to a hundredth of a pixel, which may move an edge by one.
    assert!(differ <= 10, "{differ} of 40 frames differ");
    // What it hid is told as what a detector finds.
    assert_eq!(detections(&dir.path().join("again")).1, detections(&dir.path().join("direct")).1);
    let told = again.joined.detections.unwrap();
    assert_eq!((told.detectors[0].detector.as_str(), told.frames_hidden), ("regions", 40));
    let error = run(&clip("bikes.mp4"), &spec, dir.path(), 1).err().unwrap();
    assert!(error.message().contains("another video"), "{error}");
    // A frame without a line is told before any segment is begun, whatever the container's index tells.
    let short = dir.path().join("short.jsonl").to_str().unwrap().to_owned();
    let lines: Vec<&str> =
        beside.lines().filter(|line| !line.starts_with("{\"frame\":7,")).collect();
    assert_eq!(lines.len(), 40);
    std::fs::write(&short, lines.join("\n")).unwrap();
    let matroska = dir.path().join("street.mkv");
    support::ffmpeg(&["-i", source.to_str().unwrap(), "-c", "copy", matroska.to_str().unwrap()]);
    for (source, trust) in [(&source, false), (&matroska, true)] {
        let spec = JobSpec {
            files: vec![SpecFile { name: short.clone(), sha256: String::new(), size: 0 }],
            ..job(&[&format!("regions:file={short}:trust={trust}")], Some(1_000_000))
        };
        let place = dir.path().join(format!("short{trust}"));
        std::fs::create_dir_all(&place).unwrap();
        let error = run(source, &spec, &place, 1).err().unwrap();
        if trust {
            // It is told when the frame is met.
            assert!(error.message().contains("tells nothing of the frame at pts"), "{error}");
        } else {
            assert!(error.message().contains("1 of 40 frames"), "{error}");
            assert!(error.message().contains("(0.700 s)"), "{error}");
            assert!(!place.join("0.seg").exists());
        }
    }
}

#[test]
fn a_video_in_which_something_is_hidden_tells_of_no_place_device_or_cover() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, cover) = (street(dir.path()), dir.path().join("cover.jpg"));
    let source = dir.path().join("phone.mkv");
    let (plain, cover) = (plain.to_str().unwrap(), cover.to_str().unwrap());
    support::ffmpeg(&["-i", plain, "-frames:v", "1", cover]);
    let tags = [
        "com.apple.quicktime.location.ISO6709=+48.1-011.5/",
        "com.apple.quicktime.model=Phone 9",
        "title=A walk",
    ];
    let srt = dir.path().join("drone.srt");
    let place = "1\n00:00:00,000 --> 00:00:01,000\n[latitude: 48.2082] [longitude: 16.3738]\n";
    std::fs::write(&srt, place).unwrap();
    let mut args = vec!["-i", plain, "-i", srt.to_str().unwrap(), "-map", "0", "-map", "1"];
    args.extend(["-c", "copy", "-attach", cover]);
    args.extend(["-metadata:s:t", "mimetype=image/jpeg"]);
    args.extend(tags.iter().flat_map(|tag| ["-metadata", tag]));
    args.push(source.to_str().unwrap());
    support::ffmpeg(&args);
    let tags = |filters: &[&str], keep: &[frameloom_core::spec::KeptMetadata]| {
        let container = frameloom_core::spec::Container::Mkv;
        let spec = JobSpec { keep_metadata: keep.to_vec(), container, ..job(filters, None) };
        let made = run(&source, &spec, dir.path(), 1).unwrap();
        let told: Vec<String> =
            made.plan.messages.into_iter().map(|m| format!("{}: {}", m.code, m.text)).collect();
        let shown = ffprobe(&made.output, &["-show_entries", "format_tags:stream=codec_name"]);
        let bytes = std::fs::read(&made.output).unwrap();
        let has_place = bytes.windows(7).any(|part| part == b"48.2082");
        (format!("{shown} {has_place}"), told.join("\n"))
    };
    let (open, told) = tags(&["gray"], &[]);
    for there in ["A walk", "ISO6709", "Phone 9", "mjpeg", "subrip", "true"] {
        assert!(open.contains(there), "{there}: {open}");
    }
    assert!(!told.contains("left out"), "{told}");
    let (hidden, told) = tags(&["objects:classes=person:action=blur"], &[]);
    assert!(hidden.contains("A walk"), "{hidden}");
    for gone in ["ISO6709", "48.1", "Phone 9", "mjpeg", "subrip", "true"] {
        assert!(!hidden.contains(gone), "{gone}: {hidden}");
    }
    // What is gone is told by name.
    for word in [
        "tags_dropped: tags are left out that may tell of what is hidden: \
         'com.apple.quicktime.location.ISO6709', 'com.apple.quicktime.model', 'handler_name'; \
         --keep-metadata location,device keeps them",
        "stream_dropped: subtitle stream 1 (subrip) is left out: it may tell of what is hidden; \
         --keep-metadata subtitles keeps it",
        "stream_dropped: video stream 2 (mjpeg) is left out",
    ] {
        assert!(told.to_lowercase().contains(&word.to_lowercase()), "{word}\n{told}");
    }
    let (kept, told) =
        tags(&["objects:classes=person:action=blur"], &frameloom_core::spec::KeptMetadata::ALL);
    assert!(kept.contains("mjpeg") && kept.contains("Phone 9"), "{kept}");
    assert!(kept.contains("subrip") && kept.contains("true"), "{kept}");
    assert!(!told.contains("left out"), "{told}");
}

#[test]
fn wrong_requests_are_told_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let source = street(dir.path());
    for (filters, says) in [
        (&["objects:classes=person,plane"][..], "airplane"),
        (&["faces:size=640x481"], "multiples of 32"),
        (&["faces:every=0"], "every"),
        (&["faces:action=boxes:on_error=hide"], "on_error"),
        (&["ffmpeg:hflip", "faces"], "before 'ffmpeg"),
        (&["faces:labels=x.txt"], "labels"),
        (&["faces:every=3:track=false"], "one frame of 3"),
        (&["faces:every=300"], "at most every="),
    ] {
        let error = run(&source, &job(filters, None), dir.path(), 1).err().unwrap();
        assert_eq!(error.kind(), frameloom_core::ErrorKind::Invalid, "{filters:?}: {error}");
        assert!(error.message().contains(says), "{filters:?}: {error}");
    }
    let only = JobSpec { detections_only: Some(DetectionsFormat::Csv), ..job(&["gray"], None) };
    let error = run(&source, &only, dir.path(), 1).err().unwrap();
    assert!(error.message().contains("--detections-only"), "{error}");
}
