//! Arguments about locks. Whatever is wrong with one, the error names it.

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::lock::{self, Keeping, LockError, LockName, Options, Wanted};

/// A string that may have no UTF-8: half of a surrogate pair, as in file names that are not UTF-8.
struct Text(Result<String, usize>);

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.cast::<PyString>()?.to_str() {
            Ok(text) => Ok(Self(Ok(text.to_owned()))),
            Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(value.py()) => {
                let position = error.value(value.py()).getattr("start")?.extract()?;
                Ok(Self(Err(position)))
            }
            Err(error) => Err(error),
        }
    }
}

impl Text {
    /// # Errors
    /// `ValueError` naming the argument, without quoting it.
    fn of(&self, argument: &str) -> PyResult<&str> {
        self.0.as_deref().map_err(|position| {
            PyValueError::new_err(format!(
                "{argument} is not valid Unicode: half of a surrogate pair at character {position}"
            ))
        })
    }
}

/// A number of seconds. An integer that no float can hold is infinite, which no argument may be.
#[derive(Clone, Copy)]
pub(super) struct Seconds(pub(super) f64);

impl<'py> FromPyObject<'_, 'py> for Seconds {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.extract::<f64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                let sign = if value.lt(0)? { -1.0 } else { 1.0 };
                Ok(Self(sign * f64::INFINITY))
            }
            seconds => seconds.map(Self),
        }
    }
}

/// An integer; one that is too large is the largest.
struct Number(i64);

impl<'py> FromPyObject<'_, 'py> for Number {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.extract::<i64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                Ok(Self(if value.lt(0)? { i64::MIN } else { i64::MAX }))
            }
            number => number.map(Self),
        }
    }
}

/// The name of a lock, from its two identifiers.
pub(super) fn lock_name(
    marketplace_id: &Bound<'_, PyAny>,
    posting_id: &Bound<'_, PyAny>,
) -> PyResult<LockName> {
    let marketplace_id = text(marketplace_id, "marketplace_id")?;
    let posting_id = text(posting_id, "posting_id")?;
    Ok(LockName::new(&marketplace_id, &posting_id)?)
}

/// A string, which must have a form in UTF-8.
pub(super) fn text(value: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    named::<Text>(value, name)?.of(name).map(str::to_owned)
}

/// As [`text`], where None is possible.
pub(super) fn optional_text(value: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Option<String>> {
    value.map(|value| text(value, name)).transpose()
}

/// The keywords of `acquire`, and the first ones of leases.
pub(super) struct Terms {
    holder_id: Text,
    ttl: Seconds,
    timeout: Seconds,
    /// Whether a timeout names the holder.
    pub(super) names_holder: bool,
}

/// The keywords of `lease`, `lease_blocking` and `lease_many`.
pub(super) struct LeaseTerms {
    pub(super) terms: Terms,
    auto_renew: bool,
    max_hold: Option<Seconds>,
}

impl Terms {
    /// # Errors
    /// `TypeError` naming the keyword that is missing or of the wrong type, or those that are too many.
    pub(super) fn of(py: Python<'_>, keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let keywords = keywords.cloned().unwrap_or_else(|| PyDict::new(py));
        let terms = Self::among(&keywords)?;
        refuse_others(&keywords, &["holder_id", "ttl", "timeout", "names_holder"])?;
        Ok(terms)
    }

    fn among(keywords: &Bound<'_, PyDict>) -> PyResult<Self> {
        Ok(Self {
            holder_id: keyword(keywords, "holder_id")?,
            ttl: keyword(keywords, "ttl")?,
            timeout: keyword(keywords, "timeout")?,
            names_holder: keywords.contains("names_holder")? && keyword(keywords, "names_holder")?,
        })
    }

    pub(super) fn wanted(
        &self,
        marketplace_id: &Bound<'_, PyAny>,
        posting_id: &Bound<'_, PyAny>,
    ) -> PyResult<Wanted> {
        Ok(Wanted::new(
            &text(marketplace_id, "marketplace_id")?,
            &text(posting_id, "posting_id")?,
            self.holder_id.of("holder_id")?,
            self.ttl.0,
            self.timeout.0,
        )?)
    }
}

impl LeaseTerms {
    /// As [`Terms::of`].
    pub(super) fn of(py: Python<'_>, keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let keywords = keywords.cloned().unwrap_or_else(|| PyDict::new(py));
        let terms = Self {
            terms: Terms::among(&keywords)?,
            auto_renew: keyword(&keywords, "auto_renew")?,
            max_hold: keyword(&keywords, "max_hold")?,
        };
        refuse_others(
            &keywords,
            &[
                "holder_id",
                "ttl",
                "timeout",
                "names_holder",
                "auto_renew",
                "max_hold",
            ],
        )?;
        Ok(terms)
    }

    pub(super) fn keeping(&self) -> Result<Keeping, LockError> {
        Ok(Keeping {
            auto_renew: self.auto_renew,
            max_hold: longest_hold(self.max_hold)?,
            ..Keeping::default()
        })
    }
}

fn longest_hold(max_hold: Option<Seconds>) -> Result<Option<Duration>, LockError> {
    max_hold
        .map(|seconds| lock::lasting_time("max_hold", seconds.0))
        .transpose()
}

/// Checks what a manager is given, ahead of its use.
#[pyfunction]
#[pyo3(
    signature = (**settings),
    text_signature = "(*, ttl, auto_renew, max_hold, max_connections, listen_url, statement_cache)"
)]
pub fn check_lock_settings(py: Python<'_>, settings: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    let settings = settings.cloned().unwrap_or_else(|| PyDict::new(py));
    lock::lasting_time("ttl", keyword::<Seconds>(&settings, "ttl")?.0)?;
    keyword::<bool>(&settings, "auto_renew")?;
    longest_hold(keyword(&settings, "max_hold")?)?;
    options(&settings)?.check()?;
    refuse_others(
        &settings,
        &[
            "ttl",
            "auto_renew",
            "max_hold",
            "max_connections",
            "listen_url",
            "statement_cache",
        ],
    )
}

/// The options of a database: the last three of [`check_lock_settings`], each of which may be left out.
pub(super) fn options(settings: &Bound<'_, PyDict>) -> PyResult<Options> {
    let mut options = Options::default();
    if settings.contains("max_connections")? {
        options.max_connections = lock::connections(keyword::<Number>(settings, "max_connections")?.0)?;
    }
    if settings.contains("listen_url")? {
        let listen_url: Option<Text> = keyword(settings, "listen_url")?;
        let listen_url = listen_url.as_ref().map(|url| url.of("listen_url")).transpose()?;
        options.listen_url = listen_url.map(str::to_owned);
    }
    if settings.contains("statement_cache")? {
        options.statement_cache = keyword(settings, "statement_cache")?;
    }
    Ok(options)
}

fn refuse_others(keywords: &Bound<'_, PyDict>, known: &[&str]) -> PyResult<()> {
    for name in keywords.keys() {
        if !known.contains(&&*name.extract::<String>()?) {
            let message = format!("unexpected keyword {}", name.repr()?);
            return Err(PyTypeError::new_err(message));
        }
    }
    Ok(())
}

fn keyword<T>(keywords: &Bound<'_, PyDict>, name: &str) -> PyResult<T>
where
    T: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr>,
{
    match keywords.get_item(name)? {
        Some(value) => named(&value, name),
        None => Err(PyTypeError::new_err(format!(
            "missing required keyword-only argument: '{name}'"
        ))),
    }
}

/// Extracts an argument. PyO3 itself names an argument of the wrong type in the message on Python
/// 3.10 alone, and in a note elsewhere, which logs and `str()` do not show.
pub(super) fn named<T>(value: &Bound<'_, PyAny>, name: &str) -> PyResult<T>
where
    T: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr>,
{
    value.extract().map_err(|error: PyErr| {
        if !error.is_instance_of::<PyTypeError>(value.py()) {
            return error;
        }
        let cause = error.value(value.py());
        PyTypeError::new_err(format!("argument '{name}': {cause}"))
    })
}
