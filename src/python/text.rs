//! The binding of what makes text fit to be shown.

use std::borrow::Cow;

use pyo3::prelude::*;

/// The text with control characters written out. See [`crate::printable::printable`].
#[pyfunction]
pub fn printable(text: &str) -> Cow<'_, str> {
    crate::printable::printable(text)
}
