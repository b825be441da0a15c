//! Just enough of Python's lexical rules to tell which lines belong together. Works on broken programs too.

/// Follows strings, brackets and line continuations, as far as needed to tell whether a line goes on with the one before.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    /// The quote of the open triple-quoted string.
    open_string: Option<u8>,
    open_brackets: usize,
    is_continued: bool,
}

impl Lexer {
    /// Whether the next line goes on with this one.
    pub(super) fn is_inside(&self) -> bool {
        self.open_string.is_some() || self.open_brackets > 0 || self.is_continued
    }

    /// Whether the next line stands inside a bracket, and in no string.
    pub(super) fn is_in_bracket(&self) -> bool {
        self.open_string.is_none() && self.open_brackets > 0
    }

    /// Reads a line. Returns where its comment starts, if it has one, in bytes.
    pub(super) fn line(&mut self, line: &str) -> Option<usize> {
        let bytes = line.trim_end_matches(['\n', '\r']).as_bytes();
        self.is_continued = false;
        let mut at = 0;
        while at < bytes.len() {
            if let Some(quote) = self.open_string {
                if bytes[at] == b'\\' {
                    at += 2;
                } else if bytes[at..].starts_with(&[quote; 3]) {
                    self.open_string = None;
                    at += 3;
                } else {
                    at += 1;
                }
                continue;
            }
            match bytes[at] {
                b'#' => return Some(at),
                quote @ (b'"' | b'\'') => {
                    if bytes[at..].starts_with(&[quote; 3]) {
                        self.open_string = Some(quote);
                        at += 3;
                        continue;
                    }
                    at += 1;
                    while at < bytes.len() && bytes[at] != quote {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                }
                b'(' | b'[' | b'{' => self.open_brackets += 1,
                b')' | b']' | b'}' => self.open_brackets = self.open_brackets.saturating_sub(1),
                b'\\' if at + 1 == bytes.len() => self.is_continued = true,
                _ => {}
            }
            at += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For every line, whether the next one goes on with it.
    fn goes_on(source: &str) -> Vec<bool> {
        let mut lexer = Lexer::default();
        let line = |line: &str| {
            lexer.line(line);
            lexer.is_inside()
        };
        source.split_inclusive('\n').map(line).collect()
    }

    #[test]
    fn brackets_triple_quotes_and_backslashes_join_lines() {
        assert_eq!(goes_on("f(1,\n2)\nx"), [true, false, false]);
        assert_eq!(goes_on("s = '''a\n\\'''\n'''\n"), [true, true, false]);
        assert_eq!(goes_on("a = 1 + \\\r\n2\n"), [true, false]);
        assert_eq!(goes_on("'(' # [\n\"\\\"(\"\n)"), [false, false, false]);
    }

    #[test]
    fn comments_are_found() {
        assert_eq!(Lexer::default().line("x = '#' # y\n"), Some(8));
        assert_eq!(Lexer::default().line("x = '#'"), None);
    }
}
