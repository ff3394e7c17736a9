//! SQLite's URLs, and one path for each file.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::parts::{Parameters, decode};
use crate::lock::error::LockError;
use crate::lock::store::sqlite::Location;

/// A file system gives up after as many symbolic links.
const MOST_LINKS: u32 = 40;

/// Takes apart `/path?parameters`.
pub(super) fn location(rest: &str, create_folders: bool) -> Result<Location, LockError> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Ok(Location::Memory);
    }
    let Some(path) = path.strip_prefix('/') else {
        return Err(LockError::invalid(
            "database_url",
            "a SQLite URL has three slashes before a relative path and four before an absolute one",
        ));
    };
    let query = Parameters::read(query);
    let is_uri = query.last("uri").is_some_and(|value| {
        let value = value.trim().to_ascii_lowercase();
        ["true", "yes", "on", "y", "t", "1"].contains(&value.as_str())
    });
    let path = decode(path);
    // SQLite reads a file name as a URI only if the parameter `uri` is true, and only then the
    // other parameters are SQLite's.
    let path = match path.strip_prefix("file:").filter(|_| is_uri) {
        Some(uri) if query.last("mode") == Some("memory") || uri.starts_with(":memory:") => {
            return Ok(Location::Memory);
        }
        Some(uri) => {
            let path = uri.split(['?', '#']).next().unwrap_or_default();
            decode(path.strip_prefix("//localhost").unwrap_or(path))
        }
        None => path,
    };
    if path.is_empty() || path == ":memory:" {
        return Ok(Location::Memory);
    }
    if path.contains('\0') {
        return Err(LockError::invalid(
            "database_url",
            "database_url must not contain NUL characters",
        ));
    }
    Ok(Location::File {
        path: resolved(Path::new(&path)),
        create_folders,
    })
}

/// One path for one file, so that everyone who means it shares an engine: absolute, without `..` and
/// symbolic links, whether or not the file exists yet.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ahead: Vec<OsString> = Vec::new();
    let mut found = PathBuf::new();
    push(&mut ahead, &mut found, &absolute);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            found.pop();
            continue;
        }
        let next = found.join(name);
        match std::fs::read_link(&next) {
            Ok(target) if links < MOST_LINKS => {
                links += 1;
                push(&mut ahead, &mut found, &target);
            }
            _ => found = next,
        }
    }
    found
}

/// Puts the parts of a path before what is ahead; an absolute path starts anew.
fn push(ahead: &mut Vec<OsString>, found: &mut PathBuf, path: &Path) {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Prefix(_) => *found = component.as_os_str().into(),
            Component::RootDir => found.push(component),
            Component::CurDir => {}
            Component::ParentDir | Component::Normal(_) => parts.push(component.as_os_str().to_owned()),
        }
    }
    ahead.extend(parts.into_iter().rev());
}
