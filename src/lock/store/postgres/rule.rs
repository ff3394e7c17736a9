//! What a row's expiry means, in SQL: the one place that says it.
//!
//! The time is the server's at that moment, not the start of the transaction.

/// The server's clock in Unix seconds.
macro_rules! now {
    () => {
        "extract(epoch FROM clock_timestamp())::float8"
    };
}

/// The expiry of a row that lasts from now on, or from a given time on.
macro_rules! expiry {
    ($ttl:literal) => {
        concat!(now!(), " + ", $ttl)
    };
    ($from:literal, $ttl:literal) => {
        concat!($from, " + ", $ttl)
    };
}

/// The expiry of the row that this acquisition has won already by another try, else NULL. A try that
/// comes late ends the lease no sooner: its holder may have renewed it for longer meanwhile.
macro_rules! own_expiry {
    () => {
        "CASE WHEN locks.id = excluded.id THEN locks.expires_at END"
    };
}

/// Whether a row with this expiry is free. NULL if the expiry is NULL; a row whose expiry is NULL
/// or NaN never becomes free.
macro_rules! is_free {
    ($expires_at:literal) => {
        concat!("(", $expires_at, " <= ", now!(), ")")
    };
}

/// The columns of a row that was found, as [`super::row::read_row`] reads them.
macro_rules! row_columns {
    ($from:literal) => {
        concat!(
            $from,
            "id, ",
            $from,
            "holder_id, ",
            $from,
            "acquired_at, ",
            $from,
            "expires_at, ",
            $from,
            "expires_at - ",
            now!()
        )
    };
}

pub(super) use {expiry, is_free, now, own_expiry, row_columns};
