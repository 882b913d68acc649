//! ONNX Runtime's library: where it is looked for, and how it is loaded, once a process.
//!
//! The first of these that is there is taken:
//!
//! 1. the file that `FRAMELOOM_ONNXRUNTIME` names; where that is not there, or is something else, nothing else is looked for;
//! 2. `libonnxruntime.so*` beside the program;
//! 3. in `../lib/frameloom` of the program's directory;
//! 4. in `/usr/local/lib/frameloom`, where `make setup` puts it;
//! 5. in `/usr/lib/frameloom`;
//! 6. where the system's loader looks: `LD_LIBRARY_PATH`, and what `ldconfig` has noted.
//!
//! In a directory that holds several, the one of the highest version.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use frameloom_core::{Error, Result};
use ort::environment::Environment;
use ort::ep::ExecutionProvider as _;

/// Names a library's file to take instead of any that is found.
const VARIABLE: &str = "FRAMELOOM_ONNXRUNTIME";

/// What ONNX Runtime's library offers, and no other.
const ENTRY: &[u8] = b"OrtGetApiBase";

/// What the library's file is called, up to its version.
const LIBRARY: &str = "libonnxruntime.so";

/// Where the system's loader notes what it knows.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// ONNX Runtime's library, found but not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// The file, links followed.
    pub path: PathBuf,
    /// Its version by the file's name, e.g. `1.32.0`; the file's size where the name tells none.
    pub version: String,
}

/// The part of the library that runs on NVIDIA cards, beside it.
const CUDA_PART: &str = "libonnxruntime_providers_cuda.so";

impl RuntimeInfo {
    /// What shapes a detector's numbers: the version, and whether cards take part in it, which count otherwise. Nothing is loaded.
    pub(crate) fn words(&self) -> String {
        self.words_with(Path::new("/dev"))
    }

    fn words_with(&self, devices: &Path) -> String {
        let part = self.path.with_file_name(CUDA_PART).is_file();
        if part && has_card(devices) {
            format!("{}, CUDA", self.version)
        } else {
            self.version.clone()
        }
    }
}

/// Whether there is an NVIDIA card: `nvidia0` and so on in the directory of devices.
fn has_card(devices: &Path) -> bool {
    let entries = std::fs::read_dir(devices).into_iter().flatten().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.any(|name| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The library that this process uses, if there is one. It is looked for once; a slot must ask before it is shut off.
pub fn runtime() -> Option<&'static RuntimeInfo> {
    runtime_or_advice().ok()
}

/// As [`runtime`].
///
/// # Errors
/// Unavailable with what to do, where there is none.
pub fn runtime_or_advice() -> Result<&'static RuntimeInfo> {
    static FOUND: OnceLock<Result<RuntimeInfo>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let program = std::env::current_exe().ok();
        find(&Places {
            named: named(),
            program: program.as_deref().and_then(Path::parent).map(Path::to_owned),
            loader: std::env::var_os("LD_LIBRARY_PATH")
                .map(|paths| std::env::split_paths(&paths).collect())
                .unwrap_or_default(),
            ..Places::default()
        })
    });
    found.as_ref().map_err(Clone::clone)
}

/// The file that the user names.
fn named() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// Whether the library offers CUDA. This loads it.
///
/// # Errors
/// Unavailable where there is none, or it cannot be loaded.
pub fn cuda() -> Result<bool> {
    environment()?;
    ort::ep::CUDA::is_available()
        .map_err(|e| Error::unavailable("ONNX Runtime does not say what it offers").with_source(e))
}

/// Where to look.
struct Places {
    named: Option<PathBuf>,
    /// The program's directory.
    program: Option<PathBuf>,
    system: Vec<PathBuf>,
    loader: Vec<PathBuf>,
    loader_cache: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            named: None,
            program: None,
            system: vec!["/usr/local/lib/frameloom".into(), "/usr/lib/frameloom".into()],
            loader: Vec::new(),
            loader_cache: LOADER_CACHE.into(),
        }
    }
}

fn find(places: &Places) -> Result<RuntimeInfo> {
    if let Some(named) = &places.named {
        let wrong = |why: &str| {
            Error::unavailable(format!(
                "{VARIABLE} names '{}', {why}; name the file of ONNX Runtime's library, or unset it and run 'make setup'",
                named.display()
            ))
        };
        let info = info(named).ok_or_else(|| wrong("where no file is"))?;
        return match File::open(&info.path).and_then(|mut file| holds(&mut file, ENTRY)) {
            Ok(true) => Ok(info),
            Ok(false) => Err(wrong("which is something else")),
            Err(e) => Err(wrong("which cannot be read").with_source(e)),
        };
    }
    let program = places.program.iter().cloned();
    let beside = places.program.iter().map(|program| program.join("../lib/frameloom"));
    let directories = program.chain(beside).chain(places.system.iter().cloned());
    directories
        .chain(places.loader.iter().cloned())
        .find_map(|directory| newest(&directory))
        .or_else(|| noted(&places.loader_cache))
        .ok_or_else(|| {
            Error::unavailable(format!(
                "ONNX Runtime, which detectors need, is not installed; run 'make setup' (with the Debian package \
                 /usr/share/frameloom/onnxruntime.sh), or name its library's file in {VARIABLE}"
            ))
        })
}

/// Whether these bytes stand somewhere in a file.
fn holds(file: &mut File, wanted: &[u8]) -> std::io::Result<bool> {
    let mut chunk = Vec::new();
    loop {
        // What may begin at the end of the one before is looked at once more.
        let kept = chunk.len().saturating_sub(wanted.len() - 1);
        chunk.drain(..kept);
        let read = file.by_ref().take(1 << 20).read_to_end(&mut chunk)?;
        if chunk.windows(wanted.len()).any(|bytes| bytes == wanted) {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
    }
}

/// The library of the highest version in a directory.
fn newest(directory: &Path) -> Option<RuntimeInfo> {
    let entries = std::fs::read_dir(directory).ok()?;
    entries
        .flatten()
        .filter(|entry| is_library(&entry.file_name()))
        .filter_map(|entry| info(&entry.path()))
        .max_by_key(|info| {
            let numbers: Vec<u64> =
                info.version.split('.').map(|part| part.parse().unwrap_or(0)).collect();
            (numbers, info.path.clone())
        })
}

/// The first library that the system's loader has noted. Its cache holds paths between zeros.
fn noted(cache: &Path) -> Option<RuntimeInfo> {
    let bytes = std::fs::read(cache).ok()?;
    bytes
        .split(|byte| *byte == 0)
        .filter(|text| text.first() == Some(&b'/'))
        .map(|text| Path::new(OsStr::from_bytes(text)))
        .filter(|path| path.file_name().is_some_and(is_library))
        .find_map(info)
}

fn is_library(name: &OsStr) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix(LIBRARY))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What is known of a library's file without loading it.
fn info(path: &Path) -> Option<RuntimeInfo> {
    let path = path.canonicalize().ok()?;
    let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let name = path.file_name()?.to_str()?;
    let version = name.strip_prefix(LIBRARY).and_then(|rest| rest.strip_prefix('.'));
    let version = version.map_or_else(|| format!("{} bytes", metadata.len()), str::to_owned);
    Some(RuntimeInfo { version, path })
}

/// ONNX Runtime, loaded with the first call that finds it.
///
/// # Errors
/// Unavailable where there is none, or it cannot be loaded; the next call tries again.
pub(super) fn environment() -> Result<Environment> {
    static LOADED: Mutex<Option<Environment>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*loaded {
        return Ok(environment.clone());
    }
    let environment = load(&runtime_or_advice()?.path)?;
    *loaded = Some(environment.clone());
    Ok(environment)
}

fn load(path: &Path) -> Result<Environment> {
    let unusable = |why: String| {
        let advice = if named().is_some() {
            format!("correct {VARIABLE}, or unset it and run 'make setup'")
        } else {
            format!("remove it and run 'make setup', or name another one in {VARIABLE}")
        };
        let name = path.display();
        Error::unavailable(format!("'{name}' cannot be loaded as ONNX Runtime; {advice}"))
            .with_source(why)
    };
    check_whole(path).map_err(|e| unusable(e.to_string()))?;
    // The binding panics where the library is one, but does not offer what it should.
    let loading = AssertUnwindSafe(|| {
        let builder = ort::init_from(path).map_err(|e| e.to_string())?;
        builder
            .with_name("frameloom")
            .with_telemetry(false)
            .with_logger(Arc::new(|level, category, _id, _place, message| {
                tracing::debug!(?level, category, "ONNX Runtime: {message}");
            }))
            .build()
            .map_err(|e| e.to_string())
    });
    let environment = catch_unwind(loading)
        .unwrap_or_else(|_| Err("it does not offer what ONNX Runtime does".into()))
        .map_err(unusable)?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    Ok(environment)
}

/// Whether an ELF file is as long as its header says: the system's loader dies of one that is cut off.
fn check_whole(path: &Path) -> std::io::Result<()> {
    let mut head = [0; 64];
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.read_exact(&mut head)?;
    let number = |at: usize, bytes: usize| {
        head[at..at + bytes].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    // Place, size and count of the section headers, which are last in the file.
    let end = number(58, 2).saturating_mul(number(60, 2)).saturating_add(number(40, 8));
    let elf64_little_endian = head[..6] == *b"\x7fELF\x02\x01";
    if elf64_little_endian && end <= size {
        return Ok(());
    }
    Err(std::io::Error::other("the file is no library, or is cut off"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            named: None,
            program: Some(root.join("bin")),
            system: vec![root.join("local"), root.join("usr")],
            loader: vec![root.join("path")],
            loader_cache: root.join("cache"),
        }
    }

    #[test]
    fn places_are_looked_at_in_order() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in ["bin", "lib/frameloom", "local", "usr", "path", "far"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let mut places = places(&root);
        let none = find(&places).unwrap_err();
        assert_eq!(none.kind().exit_code(), 6);
        assert!(none.message().contains("make setup"), "{none}");
        let library = |place: &str| root.join(place).join("libonnxruntime.so.1.32.0");
        fs::write(library("far"), "").unwrap();
        let cache =
            [b"junk\0".to_vec(), library("far").into_os_string().into_encoded_bytes(), vec![0]];
        fs::write(root.join("cache"), cache.concat()).unwrap();
        assert_eq!(find(&places).unwrap().path, library("far"));
        for place in ["path", "usr", "local", "lib/frameloom", "bin"] {
            fs::write(library(place), "").unwrap();
            let found = find(&places).unwrap();
            assert_eq!((found.path, found.version.as_str()), (library(place), "1.32.0"));
        }
        places.named = Some(library("usr"));
        let error = find(&places).unwrap_err();
        assert!(error.message().contains("which is something else; name the file"), "{error}");
        // Across the border of what is read at a time.
        let text = [&vec![b'.'; (1 << 20) - 5][..], b"OrtGetApiBase\0."].concat();
        fs::write(library("usr"), text).unwrap();
        assert_eq!(find(&places).unwrap().path, library("usr"));
        places.named = Some(root.join("nothing"));
        let error = find(&places).unwrap_err();
        assert!(error.message().contains("nothing'"), "{error}");
    }

    #[test]
    fn the_highest_version_counts_and_a_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for name in
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.22.1", "libonnxruntime_x.so.2.0"]
        {
            fs::write(root.join(name), "").unwrap();
        }
        assert_eq!(newest(&root).unwrap().version, "1.22.1");
        fs::remove_file(root.join("libonnxruntime.so.1.22.1")).unwrap();
        std::os::unix::fs::symlink("libonnxruntime.so.1.9.0", root.join(LIBRARY)).unwrap();
        assert_eq!(newest(&root).unwrap().version, "1.9.0");
        let plain = root.join("plain");
        fs::create_dir(&plain).unwrap();
        fs::write(plain.join(LIBRARY), "12345").unwrap();
        assert_eq!(newest(&plain).unwrap().version, "5 bytes");
    }

    #[test]
    fn a_library_on_a_card_is_another_engine() {
        let root = tempfile::tempdir().unwrap();
        let devices = root.path().join("dev");
        fs::create_dir(&devices).unwrap();
        let path = root.path().join("libonnxruntime.so.1.32.0");
        let info = RuntimeInfo { path, version: "1.32.0".into() };
        assert_eq!(info.words_with(&devices), "1.32.0");
        for name in ["nvidiactl", "nvidia-uvm", "nvidia"] {
            fs::write(devices.join(name), "").unwrap();
        }
        fs::write(root.path().join(CUDA_PART), "").unwrap();
        assert_eq!(info.words_with(&devices), "1.32.0");
        fs::write(devices.join("nvidia1"), "").unwrap();
        assert_eq!(info.words_with(&devices), "1.32.0, CUDA");
        fs::remove_file(root.path().join(CUDA_PART)).unwrap();
        assert_eq!(info.words_with(&devices), "1.32.0");
    }

    #[test]
    fn a_broken_library_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LIBRARY);
        let whole = fs::read(&runtime_or_advice().unwrap().path).unwrap();
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        for broken in [
            &b""[..],
            b"no library at all, but more than sixty-four bytes of text that stand here",
            &whole[..whole.len() / 2],
            &own,
        ] {
            fs::write(&path, broken).unwrap();
            let error = load(&path).unwrap_err();
            assert_eq!(error.kind().exit_code(), 6);
            assert!(error.message().contains("make setup"), "{error}");
        }
        // What failed is not kept.
        environment().unwrap();
    }
}
