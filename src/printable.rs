//! Escapes control characters in untrusted text, so that the text can be written to a log or a
//! terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns the text with escapes (`\n`, `\x1b`, `\u202e`) in place of the characters that control a
/// terminal or end a line of a log.
///
/// These are the control characters (C0, DEL and C1), the separators of lines and paragraphs, and
/// the characters that change the writing direction. Letters of every language stay unchanged.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        // Writing to a string never fails.
        let _ = match character {
            '\n' => written.write_str("\\n"),
            '\r' => written.write_str("\\r"),
            '\t' => written.write_str("\\t"),
            _ if !is_obeyed(character) => written.write_char(character),
            _ if u32::from(character) < 0x100 => write!(written, "\\x{:02x}", u32::from(character)),
            _ => write!(written, "\\u{:04x}", u32::from(character)),
        };
    }
    Cow::Owned(written)
}

fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(
            printable("a\x1b]0;x\x07\u{9b}2J\x7f\0"),
            r"a\x1b]0;x\x07\x9b2J\x7f\x00"
        );
        assert_eq!(
            printable("a\nb\r\tc\u{2028}\u{2029}\u{85}"),
            r"a\nb\r\tc\u2028\u2029\x85"
        );
        assert_eq!(printable("a\u{202e}b\u{2066}c"), r"a\u202eb\u2066c");
    }

    #[test]
    fn letters_stay_as_they_are() {
        for text in ["", "upwork:~01b", "Größe 日本語 עברית 👨\u{200d}👩", r"C:\new"] {
            assert!(
                matches!(printable(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }
}
