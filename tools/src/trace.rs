//! `--trace FILE`: a run on a time line.

use std::path::{Path, PathBuf};

use lab::perfetto::Perfetto;
use serde::Serialize;

use crate::failure::Failure;

/// A trace that is being written.
pub(crate) struct TraceFile {
    path: PathBuf,
    pub(crate) perfetto: Perfetto,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Traced {
    file: String,
    events: u64,
    /// Why it ends before the run did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl TraceFile {
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let perfetto = Perfetto::create(path).map_err(|e| cannot_write(path, &e))?;
        Ok(Self { path: path.to_owned(), perfetto })
    }

    pub(crate) fn end(&self) -> Traced {
        let file = self.path.display().to_string();
        match self.perfetto.finish() {
            Ok(events) => Traced { file, events, error: None },
            Err(e) => Traced { file, events: 0, error: Some(e.to_string()) },
        }
    }
}

impl Traced {
    pub(crate) fn summary(&self) -> String {
        format!("{} events are in {}: open it in ui.perfetto.dev", self.events, self.file)
    }

    /// The run's own result, unless the trace of it is not complete.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match &self.error {
            Some(error) => Err(Failure::reported(format!("{} is not complete: {error}", self.file))),
            None => Ok(()),
        }
    }
}

pub(crate) fn cannot_write(path: &Path, e: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot write {}: {e}; name another file", path.display()))
}
