//! Dicts as results.

/// A dict of values of several types: `dict!(py, {"name": value})`. The function around it returns what Python raises.
macro_rules! dict {
    ($py:expr, { $($key:literal: $value:expr),* $(,)? }) => {{
        let dict = pyo3::types::PyDict::new($py);
        $(dict.set_item(pyo3::intern!($py, $key), $value)?;)*
        dict
    }};
}
pub(crate) use dict;
