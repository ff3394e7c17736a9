//! The bindings: arguments in, results and errors out, no logic.
