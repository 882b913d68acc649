//! Files that filters take: they come in as open descriptors, by the names that the job gives them.

use std::fs::File;
use std::sync::Arc;

use frameloom_core::{Error, Result};

use crate::detect;

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
        detect::read_file(name, &self.get(name)?)
    }
}
