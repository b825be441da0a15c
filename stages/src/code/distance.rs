//! Edit distance between programs.

use rapidfuzz::distance::levenshtein;

/// One program, ready to be compared with many.
#[derive(Debug)]
pub struct Compared<'a> {
    text: &'a str,
    is_ascii: bool,
}

impl<'a> Compared<'a> {
    /// Prepares a program.
    pub fn new(text: &'a str) -> Self {
        Self { text, is_ascii: text.is_ascii() }
    }

    /// The Levenshtein distance in characters.
    pub fn distance(&self, other: &str) -> usize {
        // Of ASCII, bytes are characters, and bytes are compared without hashing.
        if self.is_ascii && other.is_ascii() {
            levenshtein::distance(self.text.bytes(), other.bytes())
        } else {
            levenshtein::distance(self.text.chars(), other.chars())
        }
    }
}

/// The candidate that is nearest to `text`, the earliest among equals, and its distance in characters.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<(usize, usize)> {
    let text = Compared::new(text);
    candidates.into_iter().enumerate().map(|(i, candidate)| (i, text.distance(candidate))).min_by_key(|&(_, d)| d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_characters() {
        assert_eq!(Compared::new("kitten").distance("sitting"), 3);
        assert_eq!(Compared::new("für").distance("fur"), 1);
        assert_eq!(Compared::new("fur").distance("日本fur"), 2);
        assert_eq!(Compared::new("").distance("abc"), 3);
    }

    #[test]
    fn the_earliest_of_equals_is_nearest() {
        assert_eq!(nearest("abcd", ["xbxd", "abxd", "xbcd"]), Some((1, 1)));
        assert_eq!(nearest("abcd", []), None);
    }
}
