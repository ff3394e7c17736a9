use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sqlx::postgres::PgSslMode;

use super::parts::Parts;
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
        assert_eq!(parse(url).unwrap().identity(), Identity::Memory, "{url}");
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

#[cfg(unix)]
#[test]
fn one_file_is_one_database_before_it_exists() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().canonicalize().unwrap();
    symlink(place.join("real"), place.join("folder")).unwrap();
    symlink("folder/locks.db", place.join("dangling.db")).unwrap();
    symlink("loop", place.join("loop")).unwrap();
    for name in [
        "real/locks.db",
        "folder/locks.db",
        "dangling.db",
        "real/./sub/../locks.db",
        "folder//../real/locks.db",
    ] {
        let found = path(&format!("sqlite:///{}/{name}", place.display()));
        assert_eq!(found, place.join("real/locks.db"), "{name}");
    }
    // A link that leads nowhere is an error of the operating system, later.
    path(&format!("sqlite:///{}/loop", place.display()));
}

#[test]
fn a_senseless_number_of_connections_is_refused() {
    for number in [0, -1, i64::MIN, 1 << 40] {
        let error = connections(number).unwrap_err().to_string();
        assert!(error.contains(&format!("max_connections must be from 1 to 262143, not {number}")));
    }
    assert_eq!(connections(1).unwrap(), 1);
}

#[test]
fn a_url_to_listen_at_is_checked_without_a_database() {
    let listening = |url: &str| {
        Options {
            listen_url: Some(url.into()),
            ..Options::default()
        }
        .check()
    };
    assert!(listening("postgresql+asyncpg://me:secret@h/d").is_ok());
    for url in [
        "bogus://",
        "",
        "postgresqls://h",
        "redis://h",
        "postgresql://me:secret@h:port",
    ] {
        let error = listening(url).unwrap_err().to_string();
        assert!(
            error.starts_with("listen_url") && !error.contains("secret"),
            "{error}"
        );
    }
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

#[test]
fn a_password_may_have_everything_but_an_at() {
    for password in [
        "p/ss",
        "p?ss",
        "/",
        "?",
        "a?b=c&password=x",
        "#x",
        "a:b",
        "4711/2",
        "p%+1x",
        "p@ss",
        "a:b@c",
    ] {
        let url = format!("postgresql://app:{password}@host:7/jobs?connect_timeout=3");
        let found = Parts::of(url.strip_prefix("postgresql://").unwrap(), "database_url").unwrap();
        assert_eq!((found.user, found.password), ("app", password), "{url}");
        assert_eq!(
            (found.host.as_str(), found.port, found.path),
            ("host", "7", "jobs"),
            "{url}"
        );
        let settings = settings(&url);
        assert_eq!(
            (settings.connect.get_host(), settings.connect.get_port()),
            ("host", 7)
        );
        assert_eq!(settings.connect.get_username(), "app");
        let redis = redis_settings(&format!("redis://:{password}@host:7/3"));
        assert_eq!(redis.place, "Redis database 3 at host:7", "{password}");
        let connection = redis.client.get_connection_info().redis_settings();
        assert_eq!(
            (connection.username(), connection.password()),
            (None, Some(password)),
            "{password}"
        );
    }
}

#[test]
fn an_at_in_a_parameter_is_none_of_the_password() {
    let redis = redis_settings("redis://host:7/3?client_name=me@here");
    assert_eq!(redis.place, "Redis database 3 at host:7");
    let settings = settings("postgresql://host/jobs?user=me@corp");
    assert_eq!(
        (settings.connect.get_host(), settings.connect.get_username()),
        ("host", "me@corp")
    );
}

#[test]
fn nothing_before_an_at_is_shown() {
    for rest in [
        "me:sec/ret@host:port/db",
        "me:sec@ret/x@host/db",
        "me:sec@ret?x@host/db",
        "me:sec@ret?a=x@host/db",
        "me:sec@ret#x@host/db",
        ":sec/ret@host:port/db",
        ":1/ret@host/db",
        "sec?ret@host:port",
        "sec:1?ret@host:port",
        "me:sec@[ret@host/db",
        "me:sec@host/db?connect_timeout=ret@x",
        "me:sec@host,ret@other/db",
        "sec:1/ret@h:x/db?socket_connect_timeout=y",
    ] {
        for scheme in [
            "postgresql",
            "redis",
            "rediss",
            "redis+unix",
            "sqlite",
            "sec@ret",
            "sec/ret@x",
        ] {
            let url = format!("{scheme}://{rest}");
            let said = match parse(&url) {
                Ok(found) => format!("{found:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!said.contains("sec") && !said.contains("ret"), "{url}: {said}");
        }
    }
}

#[test]
fn a_plus_in_parameters_is_a_space() {
    let plain = parse("postgresql://h/d?options=-c+search_path%3Dapp+-c+lock_timeout%3D5s").unwrap();
    for same in [
        "postgresql://h/d?options=-csearch_path=app%20--lock-timeout=5s",
        "postgresql+asyncpg://h/d?options=-c%20search_path=x%20-c%20lock_timeout=5s%20-c%20SEARCH_PATH=app",
        "postgres:///d?host=h&options=-c+lock_timeout=5s+-c+search_path=a\\pp",
    ] {
        assert_eq!(plain, parse(same).unwrap(), "{same}");
    }
    assert_ne!(
        plain,
        parse("postgresql://h/d?options=-c+lock_timeout%3D5s").unwrap()
    );
    let spaced = settings("postgresql://h/d?options=-c+search_path=a,\\+b");
    assert_eq!(spaced.connect.get_options(), Some("-c search_path=a,\\ b"));
    let password = settings("postgresql://me:a+b@h/d+b");
    assert_eq!(password.connect.get_database(), Some("d+b"));
}

#[test]
fn one_server_is_one_database_however_it_is_written() {
    for (one, other, same) in [
        ("postgresql://me@h/d", "postgres://me@h:5432/d?", true),
        (
            "postgresql://me:x@h:7/d",
            "postgresql+psycopg2:///d?host=h:7&user=me&password=x",
            true,
        ),
        ("postgresql://me:x@h/d", "postgresql://me:y@h/d", false),
        ("redis://h", "redis://h:6379/0", true),
        ("redis://h", "rediss://h", false),
    ] {
        assert_eq!(
            parse(one).unwrap() == parse(other).unwrap(),
            same,
            "{one} {other}"
        );
    }
}

#[test]
fn several_hosts_are_refused_by_name() {
    for rest in [
        "u@a:5432,b:5432/db?target_session_attrs=read-write",
        "u@a,b/db",
        "u@/db?host=a,b&port=1,2",
        "u@/db?host=a&port=1,2",
        "u@/db?host=a:5432&host=b:5432",
        "u@/db?hostaddr=127.0.0.1,127.0.0.2",
    ] {
        let error = parse(&format!("postgresql://{rest}")).unwrap_err().to_string();
        assert!(error.contains("several hosts"), "{rest}: {error}");
    }
    let one = settings("postgresql://u@/db?host=a:7&target_session_attrs=any");
    assert_eq!((one.connect.get_host(), one.connect.get_port()), ("a", 7));
    let one = settings("postgresql://u@/db?host=::1");
    assert_eq!(one.connect.get_host(), "::1");
    assert!(
        parse("postgresql:///db?service=prod")
            .unwrap_err()
            .to_string()
            .contains("service")
    );
}

#[test]
fn a_file_is_a_uri_only_where_the_url_says_so() {
    let here = |name: &str| std::env::current_dir().unwrap().join(name);
    assert_eq!(path("sqlite:///file:a%20b"), here("file:a b"));
    assert_eq!(path("sqlite:///file:a?mode=memory"), here("file:a"));
    assert_eq!(path("sqlite:///file:a%2520b?uri=true"), here("a b"));
    assert_eq!(path("sqlite:///file:a%3Fmode=rw%23x?uri=true"), here("a"));
    assert_eq!(path("sqlite:///a%2520b"), here("a%20b"));
    assert_eq!(
        path("sqlite:///file:///no/such/a?mode=rw&uri=1"),
        Path::new("/no/such/a")
    );
    assert_eq!(path("sqlite:////no/such/a@b"), Path::new("/no/such/a@b"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".*") {
        for prefix in ["", "sqlite:///", "sqlite://", "postgresql://", "postgresql://h/d?", "postgresql://u:p@", "redis://", "unix://", "rediss://h?"] {
            let _ = parse(&format!("{prefix}{text}"));
        }
    }
}
