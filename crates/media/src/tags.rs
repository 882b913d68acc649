//! Tags that may tell of what is hidden in a video: of a place, or of a device and its owner.

use frameloom_core::spec::KeptMetadata;

/// Parts of the names of tags of place, in lower case.
const PLACE: [&str; 6] = ["location", "gps", "geotag", "latitude", "longitude", "iso6709"];

/// Names of tags of a device, in lower case: whole, or behind the last point or colon.
const DEVICE: [&str; 17] = [
    "handler_name",
    "make",
    "model",
    "manufacturer",
    "device",
    "software",
    "serial",
    "serial_number",
    "serialnumber",
    "owner",
    "author",
    "identifier",
    "version",
    "camera",
    "lens",
    "firmware",
    "host_computer",
];

/// What a tag tells of, by its name; `None` for a tag that tells of nothing hidden.
pub(crate) fn tells(name: &str) -> Option<KeptMetadata> {
    let name = name.to_ascii_lowercase();
    if name == "timecode" {
        // MOV and MP4 make a data stream of it again.
        return Some(KeptMetadata::Data);
    }
    // FFmpeg tells of the language behind the name: 'make-eng'.
    let name = match name.rsplit_once('-') {
        Some((name, language)) if language.len() == 3 => name,
        _ => &name,
    };
    let last = name.rsplit(['.', '-', ':']).next().unwrap_or(name);
    if PLACE.iter().any(|part| name.contains(part)) || last == "xyz" || name == "\u{a9}xyz" {
        return Some(KeptMetadata::Location);
    }
    DEVICE.contains(&last).then_some(KeptMetadata::Device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_phones_and_cameras_are_known() {
        for place in [
            "location",
            "location-eng",
            "com.apple.quicktime.location.ISO6709",
            "LOCATION",
            "xyz",
            "com.apple.quicktime.location.accuracy.horizontal",
            "GPSCoordinates",
        ] {
            assert_eq!(tells(place), Some(KeptMetadata::Location), "{place}");
        }
        for device in [
            "make",
            "model",
            "com.apple.quicktime.make",
            "com.apple.quicktime.model",
            "com.apple.quicktime.software",
            "com.android.version",
            "com.android.manufacturer",
            "Make",
            "handler_name",
            "make-eng",
            "model-und",
            "exif:Model",
            "firmware",
            "host_computer",
        ] {
            assert_eq!(tells(device), Some(KeptMetadata::Device), "{device}");
        }
        assert_eq!(tells("timecode"), Some(KeptMetadata::Data));
        for plain in [
            "title",
            "title-eng",
            "artist",
            "language",
            "creation_time",
            "comment",
            "remodel",
            "maker_note",
        ] {
            assert_eq!(tells(plain), None, "{plain}");
        }
    }
}
