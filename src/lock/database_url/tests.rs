use std::path::Path;

use proptest::prelude::*;

use super::*;

fn parse(url: &str) -> Result<Database, LockError> {
    Database::parse(url, &Options::default())
}

fn settings(url: &str) -> Arc<PostgresSettings> {
    match parse(url).unwrap() {
        Database::Postgres(settings) => settings,
        other => panic!("{other:?}"),
    }
}

fn path(url: &str) -> PathBuf {
    match parse(url).unwrap() {
        Database::Sqlite(Location::File { path, .. }) => path,
        other => panic!("{other:?}"),
    }
}

#[test]
fn three_slashes_are_relative_and_four_absolute() {
    assert_eq!(path("sqlite:////no/such/file.db"), Path::new("/no/such/file.db"));
    assert_eq!(
        path("sqlite+aiosqlite:///some.db?timeout=5"),
        std::env::current_dir().unwrap().join("some.db")
    );
}

#[test]
fn memory_has_many_names() {
    for url in [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///file:x?mode=memory&uri=true",
    ] {
        assert_eq!(parse(url).unwrap(), Database::Sqlite(Location::Memory), "{url}");
    }
}

#[test]
fn one_file_is_one_database_whatever_the_path() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    let direct = path(&format!("sqlite:///{}/locks.db", folder.path().display()));
    assert_eq!(
        path(&format!("sqlite:///{}/sub/../locks.db", folder.path().display())),
        direct
    );
}

#[test]
fn a_server_is_found_in_every_form() {
    let plain = settings("postgresql+asyncpg://me:p%40ss@host:99/db%20name");
    assert_eq!(plain.connect.get_host(), "host");
    assert_eq!(
        (plain.connect.get_port(), plain.connect.get_username()),
        (99, "me")
    );
    assert_eq!(plain.connect.get_database(), Some("db name"));
    let socket = settings("postgres://me@/db?host=/var/run/somewhere&port=7&connect_timeout=9");
    assert_eq!(
        socket.connect.get_socket().unwrap(),
        Path::new("/var/run/somewhere")
    );
    assert_eq!(
        (socket.connect.get_port(), socket.connect_timeout.as_secs()),
        (7, 9)
    );
    assert_eq!(settings("postgresql://[::1]:5/db").connect.get_host(), "::1");
    let secured = settings("postgresql://host/db?sslmode=verify-full");
    assert!(matches!(secured.connect.get_ssl_mode(), PgSslMode::VerifyFull));
    assert!(matches!(
        settings("postgresql://h/d?ssl=require").connect.get_ssl_mode(),
        PgSslMode::Require
    ));
    assert!(!settings("postgresql+asyncpg://h/d?prepared_statement_cache_size=0").statement_cache);
}

fn redis_settings(url: &str) -> Arc<RedisSettings> {
    match parse(url).unwrap() {
        Database::Redis(settings) => settings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_redis_server_is_found_in_every_form() {
    let place = |url: &str| redis_settings(url).place.clone();
    assert_eq!(place("redis://"), "Redis database 0 at localhost:6379");
    assert_eq!(place("redis://host:7/3"), "Redis database 3 at host:7");
    assert_eq!(place("rediss://host/3?db=4"), "Redis database 4 at host:6379");
    assert_eq!(
        place("redis+unix:///run/redis.sock?db=2"),
        "Redis database 2 at /run/redis.sock"
    );
    assert_eq!(
        place("unix://me:secret@/run/redis.sock"),
        "Redis database 0 at /run/redis.sock"
    );
    assert_eq!(place("valkey://[::1]:5"), "Redis database 0 at ::1:5");
    let user = redis_settings("redis://me:p%40ss@host?socket_connect_timeout=0.5");
    let connection = user.client.get_connection_info().redis_settings();
    assert_eq!(
        (connection.username(), connection.password()),
        (Some("me"), Some("p@ss"))
    );
    assert_eq!(user.connect_timeout, Duration::from_millis(500));
    let password = redis_settings("redis://:word@host");
    let connection = password.client.get_connection_info().redis_settings();
    assert_eq!(
        (connection.username(), connection.password()),
        (None, Some("word"))
    );
}

#[test]
fn passwords_are_not_shown() {
    let shown = format!(
        "{:?}",
        parse("postgresql://me:secret-word@host/db?password=other-secret").unwrap()
    );
    assert!(!shown.contains("secret"), "{shown}");
    let shown = format!(
        "{:?}",
        parse("redis://me:secret-word@host/0?password=other-secret").unwrap()
    );
    assert!(!shown.contains("secret"), "{shown}");
    for url in [
        "postgresql://me:secret-word@host:port/db",
        "redis://me:secret-word@host:port/0",
    ] {
        let error = parse(url).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".*") {
        for prefix in ["", "sqlite:///", "sqlite://", "postgresql://", "postgresql://h/d?", "postgresql://u:p@", "redis://", "unix://", "rediss://h?"] {
            let _ = parse(&format!("{prefix}{text}"));
        }
    }
}
