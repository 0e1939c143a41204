//! Listing what lies below a directory where only one level is told at a time.

use std::future::Future;
use std::time::Duration;

use crate::location::joined;
use crate::{Entry, Error, ObjectMeta, name, remote};

/// The deepest directory below ours.
const DEPTH_MAX: usize = 32;
/// A server that answers with empty pages for ever ends here.
const TIME_MAX: Duration = Duration::from_secs(300);

/// A file or directory in a directory.
pub(crate) struct Found {
    /// The last component of its name.
    pub(crate) name: String,
    /// Of a file; directories have none.
    pub(crate) file: Option<ObjectMeta>,
}

/// Some of a directory's entries.
pub(crate) struct Page {
    pub(crate) entries: Vec<Found>,
    /// With what to ask for the next ones.
    pub(crate) next: Option<String>,
}

/// Who tells one level at a time.
pub(crate) trait Directories {
    /// A page of a directory, which is `""` or `a/b`.
    fn page(
        &self,
        directory: &str,
        next: Option<&str>,
    ) -> impl Future<Output = Result<Page, Error>> + Send;
}

/// Every file below, of directories in directories too. Nothing is below what is not there.
pub(crate) async fn files(
    directories: &impl Directories,
    entries_max: usize,
) -> Result<Vec<Entry>, Error> {
    tokio::time::timeout(TIME_MAX, walk(directories, entries_max))
        .await
        .map_err(|_| Error::protocol("the listing does not end"))?
}

async fn walk(directories: &impl Directories, entries_max: usize) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let mut seen = 0_usize;
    let mut waiting = vec![(String::new(), None)];
    while let Some((directory, next)) = waiting.pop() {
        let page = match directories.page(&directory, next.as_deref()).await {
            Err(Error::NotFound { bucket: false, .. }) if directory.is_empty() => {
                return Ok(entries);
            }
            page => page?,
        };
        for Found { name, file } in page.entries {
            seen += 1;
            if seen > entries_max {
                return Err(remote::too_many(entries_max));
            }
            let full = joined(&directory, &name);
            if let Some(fault) = name::fault(&full) {
                let name = name::quoted(&full);
                return Err(Error::protocol(format!("the listing holds {name}, which {fault}")));
            }
            match file {
                Some(ObjectMeta { bytes, etag }) => entries.push(Entry { name: full, bytes, etag }),
                None if full.split('/').count() < DEPTH_MAX => waiting.push((full, None)),
                None => return Err(Error::protocol("directories are nested deeper than 32")),
            }
        }
        if page.next.is_some() {
            waiting.push((directory, page.next));
        }
    }
    Ok(entries)
}
