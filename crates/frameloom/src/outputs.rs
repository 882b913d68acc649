//! The files that a command writes for its user: looked at before the work begins, so that none is refused at its end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use frameloom_core::{Error, Result};

use crate::cmd::shown;

/// A file that is written, with the option that names it.
pub(crate) type Written<'a> = (&'static str, &'a Path);

/// A file that is read, with what it is.
pub(crate) type Taken<'a> = (&'static str, &'a Path);

/// What [`Taken`] calls the video itself.
pub(crate) const SOURCE: &str = "the source itself";

/// What [`Taken`] calls a filter's file.
pub(crate) const OF_A_FILTER: &str = "a file that a filter takes";

/// Refuses files that could not be written at the end, or that would replace each other or what is read.
///
/// The first of `written` is tried under a short name, for it is renamed to its own; the others, which are copied, under one
/// as long as their copy's.
///
/// # Errors
/// NotFound without their directory; Invalid for what is no file, and where two are one; what the system says otherwise.
pub(crate) fn check(written: &[Written<'_>], taken: &[Taken<'_>]) -> Result<()> {
    for (_, path) in written {
        if !dir_of(path).is_dir() {
            return Err(Error::not_found(format!(
                "the directory of '{}' does not exist; make it first",
                shown(path)
            )));
        }
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                let name = shown(path);
                return Err(Error::invalid(format!("'{name}' is a directory; give a file")));
            }
            Ok(meta) if !meta.is_file() => {
                return Err(Error::invalid(format!(
                    "'{}' is not a regular file, and would be replaced by one; give another",
                    shown(path)
                )));
            }
            _ => {}
        }
    }
    for (i, (option, path)) in written.iter().enumerate() {
        if let Some((what, _)) = taken.iter().find(|(_, taken)| is_same(path, taken)) {
            return Err(Error::invalid(format!(
                "{option} '{}' is {what}; give another file",
                shown(path)
            )));
        }
        let mut others = written.iter().take(i);
        if let Some((other, _)) = others.find(|(_, other)| is_same(path, other)) {
            return Err(Error::invalid(format!(
                "{other} and {option} name one file, '{}'; give each its own",
                shown(path)
            )));
        }
    }
    let try_out = |(i, (_, path)): (usize, &Written<'_>)| try_out(path, i > 0);
    written.iter().enumerate().try_for_each(try_out)
}

/// Makes a file beside `path`, and removes it.
fn try_out(path: &Path, copied: bool) -> Result<()> {
    let mut name = OsString::from(".");
    if copied {
        name.push(path.file_name().unwrap_or_default());
    }
    name.push(".frameloom-test");
    let beside = path.with_file_name(name);
    let failed = |e: std::io::Error| Error::io(format!("cannot write '{}'", shown(path)), &e);
    File::create(&beside).map_err(failed)?;
    match fs::remove_file(&beside) {
        // Another run has tried just now, too.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(failed),
    }
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Whether two names are of one file, links followed; also of one that is not there yet.
fn is_same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| -> Option<PathBuf> {
        Some(fs::canonicalize(dir_of(path)).ok()?.join(path.file_name()?))
    };
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        (Err(_), Err(_)) => place(a).is_some_and(|a| Some(a) == place(b)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn two_names_of_one_file_are_seen_whether_it_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        symlink(at("deep"), at("link")).unwrap();
        let (fresh, same, other) = (at("deep/m"), at("link/m"), at("m"));
        assert!(is_same(&fresh, &same) && !is_same(&fresh, &other));
        fs::write(&fresh, "").unwrap();
        assert!(is_same(&fresh, &same) && !is_same(&fresh, &other));
        symlink(&fresh, &other).unwrap();
        assert!(is_same(&fresh, &other));

        let error = check(&[("-o", &at("o.mp4")), ("--metrics", &other)], &[(SOURCE, &fresh)]);
        assert_eq!(
            error.unwrap_err().message(),
            format!("--metrics '{}' is the source itself; give another file", other.display())
        );
    }

    #[test]
    fn what_is_tried_leaves_nothing_and_a_device_is_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let (out, metrics) = (dir.path().join("o.mp4"), dir.path().join("m"));
        check(&[("-o", &out), ("--metrics", &metrics)], &[]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        for (place, code) in [("/dev/null", 2), ("/proc/x.json", 3)] {
            let error = check(&[("-o", &out), ("--metrics", Path::new(place))], &[]).unwrap_err();
            assert_eq!(error.kind().exit_code(), code, "{error}");
            assert!(error.message().contains(place), "{error}");
        }
    }
}
