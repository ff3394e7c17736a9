//! The Python binding of [`crate::printable`].

use std::borrow::Cow;

use pyo3::prelude::*;

/// Returns the text with its control characters escaped. See [`crate::printable::printable`].
#[pyfunction]
pub fn printable(text: &str) -> Cow<'_, str> {
    crate::printable::printable(text)
}
