//! Files that filters take: they come in as open descriptors, by the names that the job gives them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use frameloom_core::spec::LARGEST_FILE;
use frameloom_core::{Error, ErrorKind, Result};

/// The files that came along with a task.
#[derive(Default)]
pub struct Files(Vec<(String, File)>);

impl FromIterator<(String, File)> for Files {
    fn from_iter<T: IntoIterator<Item = (String, File)>>(files: T) -> Self {
        Self(files.into_iter().collect())
    }
}

impl Files {
    /// The file of this name.
    ///
    /// # Errors
    /// Invalid where none came along.
    pub(crate) fn get(&self, name: &str) -> Result<File> {
        let file = self.0.iter().find(|(known, _)| known == name).map(|(_, file)| file);
        let file = file.ok_or_else(|| {
            Error::invalid(format!("file '{name}' did not come along with the job"))
        })?;
        file.try_clone().map_err(|e| Error::io(format!("cannot read '{name}'"), &e))
    }

    /// The content of the file of this name.
    ///
    /// # Errors
    /// Invalid where none came along; TooLarge above 1 GiB; of reading.
    pub(crate) fn read(&self, name: &str) -> Result<Arc<[u8]>> {
        let failed = |e: std::io::Error| Error::io(format!("cannot read '{name}'"), &e);
        let file = self.get(name)?;
        let size = file.metadata().map_err(failed)?.len();
        if size > LARGEST_FILE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("file '{name}' of {size} bytes; {LARGEST_FILE} are allowed"),
            ));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        // Not by the file's own position, which others that hold it share.
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_five_gigabytes_is_refused_unread() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5 << 30).unwrap();
        let files: Files = [("m.onnx".to_owned(), file)].into_iter().collect();
        let error = files.read("m.onnx").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.message().contains("5368709120"), "{error}");
        let error = files.read("other.onnx").unwrap_err();
        assert!(error.message().contains("'other.onnx'"), "{error}");
    }
}
