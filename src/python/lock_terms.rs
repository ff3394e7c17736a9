//! Arguments about locks. Whatever is wrong with one, the error names it.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::intern;
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
    let marketplace_id = identifier(marketplace_id, "marketplace_id")?;
    let posting_id = identifier(posting_id, "posting_id")?;
    Ok(LockName::new(&marketplace_id, &posting_id)?)
}

/// What an f-string makes of a value, as old processes do, whose keys must be the same. They take
/// whatever is false for an empty id, None and 0 among it.
pub(super) fn identifier(value: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    if value.is_exact_instance_of::<PyString>() {
        return text(value, name);
    }
    if !value.is_truthy()? {
        return Ok(String::new());
    }
    let format = value.py().import("builtins")?.getattr("format")?;
    text(&format.call1((value,))?, name)
}

/// The name of a holder, which old processes write as it is: a string, or `str()` of another value.
pub(super) fn holder_name(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_none() {
        return Err(PyValueError::new_err("holder_id must not be None"));
    }
    if value.is_instance_of::<PyString>() {
        return text(value, "holder_id");
    }
    text(value.str()?.as_any(), "holder_id")
}

/// A string, which must have a form in UTF-8.
pub(super) fn text(value: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    named::<Text>(value, name)?.of(name).map(str::to_owned)
}

/// As [`text`], where None is possible.
pub(super) fn optional_text(value: Option<&Bound<'_, PyAny>>, name: &str) -> PyResult<Option<String>> {
    value.map(|value| text(value, name)).transpose()
}

/// The arguments of `acquire`, and the first keywords of leases.
pub(super) struct Terms {
    holder_id: String,
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
    margin: Option<Seconds>,
    loss_check: Option<Seconds>,
}

impl Terms {
    /// # Errors
    /// `TypeError` naming the argument that is of the wrong type.
    pub(super) fn new(
        holder_id: &Bound<'_, PyAny>,
        ttl: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        names_holder: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Ok(Self {
            holder_id: holder_name(holder_id)?,
            ttl: named(ttl, "ttl")?,
            timeout: named(timeout, "timeout")?,
            names_holder: match names_holder {
                Some(value) => named(value, "names_holder")?,
                None => false,
            },
        })
    }

    fn among(keywords: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = keywords.py();
        Self::new(
            &required(keywords, intern!(py, "holder_id"))?,
            &required(keywords, intern!(py, "ttl"))?,
            &required(keywords, intern!(py, "timeout"))?,
            keywords.get_item(intern!(py, "names_holder"))?.as_ref(),
        )
    }

    pub(super) fn wanted(
        &self,
        marketplace_id: &Bound<'_, PyAny>,
        posting_id: &Bound<'_, PyAny>,
    ) -> PyResult<Wanted> {
        Ok(Wanted::new(
            &identifier(marketplace_id, "marketplace_id")?,
            &identifier(posting_id, "posting_id")?,
            &self.holder_id,
            self.ttl.0,
            self.timeout.0,
        )?)
    }
}

impl LeaseTerms {
    /// # Errors
    /// `TypeError` naming the keyword that is missing or of the wrong type, or those that are too many.
    pub(super) fn of(py: Python<'_>, keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let keywords = keywords.cloned().unwrap_or_else(|| PyDict::new(py));
        let terms = Self {
            terms: Terms::among(&keywords)?,
            auto_renew: keyword(&keywords, intern!(py, "auto_renew"))?,
            max_hold: keyword(&keywords, intern!(py, "max_hold"))?,
            margin: keyword(&keywords, intern!(py, "margin"))?,
            loss_check: keyword(&keywords, intern!(py, "loss_check"))?,
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
                "margin",
                "loss_check",
            ],
        )?;
        Ok(terms)
    }

    /// How `wanted` is kept.
    pub(super) fn keeping(&self) -> Result<Keeping, LockError> {
        Keeping::new(
            lock::lasting_time("ttl", self.terms.ttl.0)?,
            self.auto_renew,
            self.max_hold.map(|seconds| seconds.0),
            self.margin.map(|seconds| seconds.0),
            self.loss_check.map(|seconds| seconds.0),
        )
    }
}

/// Checks what a manager is given, ahead of its use.
#[pyfunction]
#[pyo3(
    signature = (**settings),
    text_signature = "(*, ttl, auto_renew, max_hold, margin, loss_check, max_connections, listen_url, statement_cache)"
)]
pub fn check_lock_settings(py: Python<'_>, settings: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    let settings = settings.cloned().unwrap_or_else(|| PyDict::new(py));
    let time = |name| Ok::<_, PyErr>(keyword::<Option<Seconds>>(&settings, name)?.map(|time| time.0));
    Keeping::new(
        lock::lasting_time("ttl", keyword::<Seconds>(&settings, intern!(py, "ttl"))?.0)?,
        keyword(&settings, intern!(py, "auto_renew"))?,
        time(intern!(py, "max_hold"))?,
        time(intern!(py, "margin"))?,
        time(intern!(py, "loss_check"))?,
    )?;
    options(&settings)?.check()?;
    refuse_others(
        &settings,
        &[
            "ttl",
            "auto_renew",
            "max_hold",
            "margin",
            "loss_check",
            "max_connections",
            "listen_url",
            "statement_cache",
        ],
    )
}

/// The options of a database: the last three of [`check_lock_settings`], each of which may be left out.
pub(super) fn options(settings: &Bound<'_, PyDict>) -> PyResult<Options> {
    let py = settings.py();
    let mut options = Options::default();
    if settings.contains(intern!(py, "max_connections"))? {
        options.max_connections =
            lock::connections(keyword::<Number>(settings, intern!(py, "max_connections"))?.0)?;
    }
    if settings.contains(intern!(py, "listen_url"))? {
        let listen_url: Option<Text> = keyword(settings, intern!(py, "listen_url"))?;
        let listen_url = listen_url.as_ref().map(|url| url.of("listen_url")).transpose()?;
        options.listen_url = listen_url.map(str::to_owned);
    }
    if settings.contains(intern!(py, "statement_cache"))? {
        options.statement_cache = keyword(settings, intern!(py, "statement_cache"))?;
    }
    Ok(options)
}

fn refuse_others(keywords: &Bound<'_, PyDict>, known: &[&str]) -> PyResult<()> {
    for (name, _) in keywords {
        if !known.contains(&name.cast::<PyString>()?.to_str()?) {
            let message = format!("unexpected keyword {}", name.repr()?);
            return Err(PyTypeError::new_err(message));
        }
    }
    Ok(())
}

fn keyword<'k, T>(keywords: &Bound<'k, PyDict>, name: &Bound<'k, PyString>) -> PyResult<T>
where
    T: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr>,
{
    named(&required(keywords, name)?, name.to_str()?)
}

fn required<'py>(keywords: &Bound<'py, PyDict>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    keywords.get_item(name)?.ok_or_else(|| {
        let message = format!("missing required keyword-only argument: '{name}'");
        PyTypeError::new_err(message)
    })
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
