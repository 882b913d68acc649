//! The models that are part of the program, and what is known of them: see `models/README.md`.

use frameloom_core::fingerprint::hex;
use sha2::{Digest, Sha256};

use super::Model;

/// A model that is part of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelInfo {
    /// What it is called, e.g. `centerface`.
    pub name: &'static str,
    /// SHA-256 of its file, hexadecimal.
    pub sha256: &'static str,
    /// Under what it may be used.
    pub license: &'static str,
}

/// The models that are part of the program.
pub fn models() -> &'static [ModelInfo] {
    &MODELS
}

const MODELS: [ModelInfo; 5] = [
    ModelInfo {
        name: "centerface",
        sha256: "56af7c0e64b1c74c6d023fd8da15ed06e0e6d636e4ef12d951c121f53f6bb71c",
        license: "MIT",
    },
    ModelInfo {
        name: "centerface-int8",
        sha256: "5fcec1e87d94bf75b4ac66876cb129fc988e343c818377a1bad818fab52f7746",
        license: "MIT",
    },
    ModelInfo {
        name: "blazeface-front",
        sha256: "d388b1cf8a5f6f1af2b3f4c14f6d0f138bab970cd618cccd12dddb7484e82e51",
        license: "Apache-2.0",
    },
    ModelInfo {
        name: "blazeface-back",
        sha256: "427cbbe0fc41448d09e1dc9cfabe2423d997cf2faaeab91fadd09a510b63b8e2",
        license: "Apache-2.0",
    },
    ModelInfo {
        name: "ssdlite",
        sha256: "e41c87411487b1ba0aa40c72d8c181c25c2621829e053e4978ef54cbb4ca09c5",
        license: "Apache-2.0",
    },
];

/// A model's file.
pub(super) struct BuiltIn {
    pub(super) info: ModelInfo,
    pub(super) bytes: &'static [u8],
    /// The only size that its input has.
    pub(super) size: Option<(u32, u32)>,
}

/// The built-in file of a model, or the user's: its name and content.
pub(super) fn built_in(model: &Model) -> Result<BuiltIn, (&str, &[u8])> {
    let (index, bytes, size): (usize, &'static [u8], _) = match model {
        Model::CenterFace => (0, include_bytes!("../../../../models/centerface.onnx"), None),
        Model::CenterFaceInt8 => {
            (1, include_bytes!("../../../../models/centerface_int8.onnx"), None)
        }
        Model::BlazeFaceFront => {
            (2, include_bytes!("../../../../models/blazeface_front_128.onnx"), Some((128, 128)))
        }
        Model::BlazeFaceBack => {
            (3, include_bytes!("../../../../models/blazeface_back_256.onnx"), Some((256, 256)))
        }
        Model::SsdLite => (
            4,
            include_bytes!("../../../../models/ssdlite_mobilenet_v2_coco_300.onnx"),
            Some((300, 300)),
        ),
        Model::File { name, bytes, .. } => return Err((name, bytes)),
    };
    Ok(BuiltIn { info: MODELS[index], bytes, size })
}

/// One number for all models that are part of the program, 16 hexadecimal digits.
pub(crate) fn digest() -> String {
    let mut hash = Sha256::new();
    for model in &MODELS {
        hash.update(model.sha256);
    }
    hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_whose_digests_are_told() {
        for model in [
            Model::CenterFace,
            Model::CenterFaceInt8,
            Model::BlazeFaceFront,
            Model::BlazeFaceBack,
            Model::SsdLite,
        ] {
            let Ok(built_in) = built_in(&model) else { panic!("{model:?} is no file of a user's") };
            let sha256 = super::super::file::sha256(built_in.bytes);
            assert_eq!(sha256, built_in.info.sha256, "{}", built_in.info.name);
        }
    }
}
