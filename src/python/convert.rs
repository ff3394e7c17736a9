//! Python arguments as values of the core.

use pyo3::prelude::*;
use pyo3::types::{
    IntoPyDict, PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple,
};
use serde_json::Number;
use serde_json::value::RawValue;

use super::errors::{invalid_type, invalid_value};
use crate::llm::{Headers, Members, Outgoing};

/// Deeper nesting is refused: it would exhaust a stack, here or at the server, and a value that
/// contains itself has no end.
const DEEPEST: usize = 100;

/// The path to a value, for errors: `tools[0]['function']`. Built only if something is wrong.
enum Path<'parent> {
    Argument(&'parent str),
    Key(&'parent Path<'parent>, &'parent str),
    Item(&'parent Path<'parent>, usize),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Argument(name) => formatter.write_str(name),
            Self::Key(parent, key) => write!(formatter, "{parent}[{key:?}]"),
            Self::Item(parent, index) => write!(formatter, "{parent}[{index}]"),
        }
    }
}

/// A request body: each member is an argument of the call, and named as such in errors.
///
/// # Errors
/// `TypeError` or `ValueError` naming the argument that JSON can't express.
pub fn body_to_json(body: &Bound<'_, PyDict>) -> PyResult<Members> {
    let mut members = Vec::with_capacity(body.len());
    for (name, value) in body.copy()?.iter() {
        let name = key_to_string(&name, &Path::Argument("extra_body"))?;
        let value = to_json(&value, &Path::Argument(&name), 0)?;
        members.push((name, value));
    }
    Ok(Members(members))
}

fn to_json(value: &Bound<'_, PyAny>, path: &Path<'_>, depth: usize) -> PyResult<Outgoing> {
    if depth > DEEPEST {
        let problem = format!("is nested more than {DEEPEST} deep");
        return Err(invalid_value(path, &problem));
    }
    if let Ok(text) = value.cast::<PyString>() {
        return utf8(text, path).map(Outgoing::Text);
    }
    if value.is_none() {
        return Ok(Outgoing::Null);
    }
    if let Ok(flag) = value.cast::<PyBool>() {
        return Ok(Outgoing::Bool(flag.is_true()));
    }
    if value.cast::<PyInt>().is_ok() {
        return integer(value, path);
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        let number = number.extract::<f64>()?;
        return Number::from_f64(number)
            .map(Outgoing::Number)
            .ok_or_else(|| invalid_value(path, &format!("is {number}, which JSON can't express")));
    }
    if let Ok(items) = value.cast::<PyList>() {
        return sequence(items.iter(), path, depth);
    }
    if let Ok(items) = value.cast::<PyTuple>() {
        return sequence(items.iter(), path, depth);
    }
    if let Ok(members) = value.cast::<PyDict>() {
        let mut object = Vec::with_capacity(members.len());
        // The loop runs over a copy, because converting a member may run Python code (`model_dump`)
        // that changes the dict, or may let another thread change it.
        for (key, member) in members.copy()?.iter() {
            let key = key_to_string(&key, path)?;
            let member = to_json(&member, &Path::Key(path, &key), depth + 1)?;
            object.push((key, member));
        }
        return Ok(Outgoing::Object(Members(object)));
    }
    other_to_json(value, path, depth)
}

/// What is rarer: pydantic models, dates, other mappings.
fn other_to_json(value: &Bound<'_, PyAny>, path: &Path<'_>, depth: usize) -> PyResult<Outgoing> {
    if !value.is_instance_of::<pyo3::types::PyType>() {
        for (method, keywords) in [("model_dump", &[("mode", "json")][..]), ("isoformat", &[])] {
            if let Some(method) = value.getattr_opt(method)? {
                let keywords = keywords.into_py_dict(value.py())?;
                return to_json(&method.call((), Some(&keywords))?, path, depth + 1);
            }
        }
        if let Ok(mapping) = value.cast::<PyMapping>() {
            let copy = PyDict::new(value.py());
            copy.update(mapping)?;
            return to_json(copy.as_any(), path, depth);
        }
    }
    let problem = format!(
        "is of type {}, which JSON can't express",
        value.get_type().name()?
    );
    Err(invalid_type(path, &problem))
}

fn sequence<'py>(
    items: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
    path: &Path<'_>,
    depth: usize,
) -> PyResult<Outgoing> {
    let mut array = Vec::with_capacity(items.len());
    for (index, item) in items.enumerate() {
        array.push(to_json(&item, &Path::Item(path, index), depth + 1)?);
    }
    Ok(Outgoing::List(array))
}

fn integer(value: &Bound<'_, PyAny>, path: &Path<'_>) -> PyResult<Outgoing> {
    if let Ok(number) = value.extract::<i64>() {
        return Ok(Outgoing::Number(number.into()));
    }
    if let Ok(number) = value.extract::<u64>() {
        return Ok(Outgoing::Number(number.into()));
    }
    digits(value)
        .ok()
        .and_then(|digits| RawValue::from_string(digits).ok())
        .map(Outgoing::Integer)
        .ok_or_else(|| invalid_value(path, "is an integer of more digits than Python writes"))
}

/// The digits of an integer; a subclass's own way to show itself does not count.
fn digits(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let kind = value.py().get_type::<PyInt>();
    kind.call_method1("__repr__", (value,))?.extract()
}

fn utf8(text: &Bound<'_, PyString>, path: &Path<'_>) -> PyResult<String> {
    text.to_str()
        .map(str::to_owned)
        .map_err(|_| invalid_value(path, "holds a lone surrogate, which UTF-8 can't express"))
}

fn key_to_string(key: &Bound<'_, PyAny>, path: &Path<'_>) -> PyResult<String> {
    if let Ok(key) = key.cast::<PyString>() {
        return utf8(key, path);
    }
    // As Python's json writes them.
    if key.is_none() {
        return Ok("null".to_owned());
    }
    if let Ok(flag) = key.cast::<PyBool>() {
        return Ok(flag.is_true().to_string());
    }
    if key.cast::<PyInt>().is_ok() {
        return digits(key).map_err(|_| invalid_value(path, "has a key of more digits than Python writes"));
    }
    if let Ok(number) = key.cast::<PyFloat>() {
        let number = number.extract::<f64>()?;
        if number.is_finite() {
            return key.repr()?.extract();
        }
        return Err(invalid_value(
            path,
            &format!("has the key {number}, which JSON can't express"),
        ));
    }
    let kind = key.get_type().name()?;
    let problem = format!("has a key of type {kind}; keys have to be strings or numbers");
    Err(invalid_type(path, &problem))
}

/// Header fields from a mapping argument: names and values may be bytes; a value of `None` stays `None`.
///
/// # Errors
/// `TypeError` naming the argument.
pub fn header_pairs(argument: &str, mapping: Option<&Bound<'_, PyAny>>) -> PyResult<Headers> {
    pairs(argument, mapping, |value, path| match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => text_of(value, path).map(String::into_bytes),
    })
}

/// Pairs of strings from a mapping argument; a value of `None` stays `None`.
///
/// # Errors
/// `TypeError` naming the argument.
pub fn string_pairs(
    argument: &str,
    mapping: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<(String, Option<String>)>> {
    pairs(argument, mapping, text_of)
}

fn pairs<Text>(
    argument: &str,
    mapping: Option<&Bound<'_, PyAny>>,
    read: impl Fn(&Bound<'_, PyAny>, &Path<'_>) -> PyResult<Text>,
) -> PyResult<Vec<(String, Option<Text>)>> {
    let Some(mapping) = mapping.filter(|mapping| !mapping.is_none()) else {
        return Ok(Vec::new());
    };
    let path = Path::Argument(argument);
    let mapping = mapping
        .cast::<PyMapping>()
        .map_err(|_| invalid_type(&path, "is not a mapping"))?;
    let mut pairs = Vec::new();
    for pair in mapping.items()?.iter() {
        let (key, value) = pair
            .extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()
            .map_err(|_| invalid_type(&path, "has items that are no pairs"))?;
        let key = match key.cast::<PyBytes>() {
            Ok(name) => String::from_utf8_lossy(name.as_bytes()).into_owned(),
            Err(_) => key_to_string(&key, &path)?,
        };
        let value = if value.is_none() {
            None
        } else {
            Some(read(&value, &Path::Key(&path, &key))?)
        };
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// A string, or a number as text.
fn text_of(value: &Bound<'_, PyAny>, path: &Path<'_>) -> PyResult<String> {
    if let Ok(text) = value.cast::<PyString>() {
        return utf8(text, path);
    }
    if value.cast::<PyInt>().is_err() && value.cast::<PyFloat>().is_err() {
        return Err(invalid_type(path, "is neither a string nor a number"));
    }
    let flag = value.cast::<PyBool>().is_ok();
    let text = value.str()?.to_str()?.to_owned();
    Ok(if flag { text.to_lowercase() } else { text })
}

/// A number of seconds; `None` for no limit. Infinity is no limit either.
///
/// # Errors
/// `TypeError` if it is no number, `ValueError` if it is negative or NaN; both name the argument
/// and the value.
pub fn seconds(argument: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<std::time::Duration>> {
    if value.is_none() {
        return Ok(None);
    }
    let path = Path::Argument(argument);
    let number = value
        .extract::<f64>()
        .ok()
        .filter(|_| !value.is_instance_of::<PyBool>());
    let number = number.ok_or_else(|| invalid_type(&path, "has to be a number of seconds, or None"))?;
    if number.is_nan() || number < 0.0 {
        let problem = format!("has to be a number of seconds from 0 on, not {number}");
        return Err(invalid_value(&path, &problem));
    }
    Ok(std::time::Duration::try_from_secs_f64(number).ok())
}
