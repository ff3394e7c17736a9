//! Which versions of other people's code are built into this library.

/// What the build was made from.
const LOCK_FILE: &str = include_str!("../Cargo.lock");
const NAMED: [&str; 6] = ["tokio", "reqwest", "rustls", "sqlx", "redis", "rusqlite"];

/// Names and versions of the libraries that matter when something is reported, and of the SQLite among them.
#[must_use]
pub fn libraries() -> Vec<(&'static str, &'static str)> {
    let locked = NAMED
        .into_iter()
        .filter_map(|name| Some((name, locked_version(name)?)));
    locked.chain([("SQLite", rusqlite::version())]).collect()
}

fn locked_version(name: &str) -> Option<&'static str> {
    let mut lines = LOCK_FILE.lines();
    let wanted = format!("name = \"{name}\"");
    lines.find(|line| *line == wanted)?;
    lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_has_a_version() {
        let found = libraries();
        assert_eq!(found.len(), NAMED.len() + 1);
        for (name, version) in found {
            assert!(
                version.starts_with(|first: char| first.is_ascii_digit()),
                "{name} {version}"
            );
        }
    }
}
