//! The words of the families: predicates, maps and reducers, each as a phrase and as code.
//!
//! In code, `{x}` (and `{y}`) stand for what is tested or mapped, `{v}` for the mapped value; other braces are constants, which
//! [`Constants`] draws.

use crate::random::Random;

/// A phrase with the code that means it.
pub(super) struct Phrase {
    /// Its part of a key.
    pub(super) key: &'static str,
    /// In words.
    pub(super) words: &'static str,
    /// In code.
    pub(super) code: &'static str,
    /// The helper that the code calls.
    pub(super) helper: Option<&'static str>,
}

const fn phrase(key: &'static str, words: &'static str, code: &'static str) -> Phrase {
    Phrase { key, words, code, helper: None }
}

const fn helped(key: &'static str, words: &'static str, code: &'static str, helper: &'static str) -> Phrase {
    Phrase { key, words, code, helper: Some(helper) }
}

/// Tests of a number.
pub(super) const NUMBER_TESTS: &[Phrase] = &[
    phrase("even", "even", "{x} % 2 == 0"),
    phrase("odd", "odd", "{x} % 2 == 1"),
    phrase("pos", "positive", "{x} > 0"),
    phrase("neg", "negative", "{x} < 0"),
    phrase("gt", "greater than {k}", "{x} > {k}"),
    phrase("lt", "less than {k}", "{x} < {k}"),
    phrase("ge", "at least {k}", "{x} >= {k}"),
    phrase("le", "at most {k}", "{x} <= {k}"),
    phrase("div", "divisible by {m}", "{x} % {m} == 0"),
    phrase("ndiv", "not divisible by {m}", "{x} % {m} != 0"),
    phrase("between", "between {a} and {b}", "{a} <= {x} <= {b}"),
    phrase("outside", "less than {a} or greater than {b}", "{x} < {a} or {x} > {b}"),
    phrase("evgt", "even and greater than {k}", "{x} % 2 == 0 and {x} > {k}"),
    phrase("oddlt", "odd and less than {k}", "{x} % 2 == 1 and {x} < {k}"),
    phrase("ends", "ending in the digit {d}", "abs({x}) % 10 == {d}"),
    helped("prime", "prime", "is_prime({x})", "is_prime"),
    helped("square", "perfect squares", "is_square({x})", "is_square"),
    helped("dsev", "such that the digit sum is even", "digit_sum({x}) % 2 == 0", "digit_sum"),
    helped("dsgt", "such that the digit sum is greater than {s}", "digit_sum({x}) > {s}", "digit_sum"),
    helped("ndig", "such that the number of digits is {c}", "count_digits({x}) == {c}", "count_digits"),
    helped("ndv", "such that the number of divisors is at most {e}", "count_divisors({x}) <= {e}", "count_divisors"),
    helped("mdig", "such that the largest digit is at least {e}", "max_digit({x}) >= {e}", "max_digit"),
];

/// Maps of a number. The first leaves it as it is.
pub(super) const NUMBER_MAPS: &[Phrase] = &[
    phrase("id", "", "{x}"),
    phrase("sq", "squared", "{x} * {x}"),
    phrase("dbl", "doubled", "{x} * 2"),
    phrase("mul", "multiplied by {m}", "{x} * {m}"),
    phrase("add", "increased by {p}", "{x} + {p}"),
    phrase("sub", "decreased by {p}", "{x} - {p}"),
    phrase("abs", "taken as absolute values", "abs({x})"),
    phrase("mod", "taken modulo {m}", "{x} % {m}"),
    phrase("half", "halved rounding down", "{x} // 2"),
    phrase("cube", "cubed", "{x} ** 3"),
    helped("ds", "replaced by the digit sum", "digit_sum({x})", "digit_sum"),
    helped("cd", "replaced by the number of digits", "count_digits({x})", "count_digits"),
    helped("rev", "with the digits reversed", "reverse_digits({x})", "reverse_digits"),
    helped("bits", "replaced by the number of one bits", "count_bits({x})", "count_bits"),
    helped("mxd", "replaced by the largest digit", "max_digit({x})", "max_digit"),
];

/// Tests of a character.
pub(super) const CHAR_TESTS: &[Phrase] = &[
    phrase("vowel", "vowels", "{x} in \"aeiou\""),
    phrase("cons", "not vowels", "{x} not in \"aeiou\""),
    phrase("upper", "uppercase letters", "{x}.isupper()"),
    phrase("lower", "lowercase letters", "{x}.islower()"),
    phrase("digit", "digits", "{x}.isdigit()"),
    phrase("alpha", "letters", "{x}.isalpha()"),
    phrase("ndigit", "not digits", "not {x}.isdigit()"),
    phrase("eq", "equal to \"{c1}\"", "{x} == \"{c1}\""),
    phrase("ne", "different from \"{c1}\"", "{x} != \"{c1}\""),
    phrase("two", "equal to \"{c1}\" or \"{c2}\"", "{x} == \"{c1}\" or {x} == \"{c2}\""),
    phrase("after", "after \"{c1}\" in the alphabet", "{x} > \"{c1}\""),
    phrase("before", "before \"{c1}\" in the alphabet", "{x} < \"{c1}\""),
];

/// Maps of a character.
pub(super) const CHAR_MAPS: &[Phrase] = &[
    phrase("id", "", "{x}"),
    phrase("up", "in uppercase", "{x}.upper()"),
    phrase("low", "in lowercase", "{x}.lower()"),
    phrase("dup", "written {r} times", "{x} * {r}"),
    phrase("dash", "followed by \"{p1}\"", "{x} + \"{p1}\""),
    phrase("star", "preceded by \"{p1}\"", "\"{p1}\" + {x}"),
];

/// Tests of a word.
pub(super) const WORD_TESTS: &[Phrase] = &[
    phrase("len_gt", "longer than {w} letters", "len({x}) > {w}"),
    phrase("len_lt", "shorter than {w} letters", "len({x}) < {w}"),
    phrase("len_eq", "exactly {w} letters long", "len({x}) == {w}"),
    phrase("start", "starting with \"{c1}\"", "{x}[0] == \"{c1}\""),
    phrase("end", "ending with \"{c1}\"", "{x}[-1] == \"{c1}\""),
    phrase("has", "containing \"{c1}\"", "\"{c1}\" in {x}"),
    phrase("nhas", "not containing \"{c1}\"", "\"{c1}\" not in {x}"),
    phrase("evlen", "of even length", "len({x}) % 2 == 0"),
    helped("vow_gt", "with more than {c} vowels", "count_vowels({x}) > {c}", "count_vowels"),
    helped("pal", "palindromes", "is_palindrome({x})", "is_palindrome"),
];

/// Maps of a word.
pub(super) const WORD_MAPS: &[Phrase] = &[
    phrase("id", "", "{x}"),
    phrase("up", "in uppercase", "{x}.upper()"),
    phrase("rev", "reversed", "{x}[::-1]"),
    phrase("first", "cut to the first letter", "{x}[0]"),
    phrase("cap", "capitalized", "{x}.capitalize()"),
    phrase("pre", "cut to the first {r} letters", "{x}[:{r}]"),
    phrase("len", "replaced by the length", "len({x})"),
    helped("vow", "replaced by the number of vowels", "count_vowels({x})", "count_vowels"),
];

/// Tests of a pair of numbers.
pub(super) const PAIR_TESTS: &[Phrase] = &[
    phrase("sumeq", "their sum is {k}", "{x} + {y} == {k}"),
    phrase("sumgt", "their sum is greater than {k}", "{x} + {y} > {k}"),
    phrase("sumdiv", "their sum is divisible by {m}", "({x} + {y}) % {m} == 0"),
    phrase("diff", "their difference is at most {e}", "abs({x} - {y}) <= {e}"),
    phrase("diffeq", "their difference is exactly {e}", "abs({x} - {y}) == {e}"),
    phrase("lt", "the first is less than the second", "{x} < {y}"),
    phrase("gt", "the first is greater than the second", "{x} > {y}"),
    phrase("prodlt", "their product is less than {q}", "{x} * {y} < {q}"),
    phrase("mulof", "the first is {c} times the second", "{x} == {c} * {y}"),
    phrase("par", "both have the same parity", "{x} % 2 == {y} % 2"),
    helped("sumpr", "their sum is prime", "is_prime({x} + {y})", "is_prime"),
];

/// Maps of a pair of numbers; the words are a plural.
pub(super) const PAIR_MAPS: &[Phrase] = &[
    phrase("list", "pairs", "[{x}, {y}]"),
    phrase("sum", "sums", "{x} + {y}"),
    phrase("prod", "products", "{x} * {y}"),
    phrase("diff", "absolute differences", "abs({x} - {y})"),
    phrase("mx", "larger elements", "max({x}, {y})"),
    phrase("mn", "smaller elements", "min({x}, {y})"),
];

/// What a loop comes to, which decides what may be done with it at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A number.
    Number,
    /// A list.
    List,
    /// Something, or None.
    Optional,
    /// A string.
    Text,
    /// Nothing more is done with it.
    Raw,
}

/// Brings the values of a loop together.
pub(super) struct Reducer {
    /// Its part of a key.
    pub(super) key: &'static str,
    /// In words, before the values.
    pub(super) words: &'static str,
    /// Lines before the loop.
    pub(super) start: &'static [&'static str],
    /// Lines for each value `{v}`.
    pub(super) update: &'static [&'static str],
    /// The result.
    pub(super) result: &'static str,
    /// What it is.
    pub(super) outcome: Outcome,
}

const fn reducer(
    key: &'static str,
    words: &'static str,
    outcome: Outcome,
    start: &'static [&'static str],
    update: &'static [&'static str],
    result: &'static str,
) -> Reducer {
    Reducer { key, words, start, update, result, outcome }
}

/// Reducers of numbers.
pub(super) const NUMBER_REDUCERS: &[Reducer] = &[
    reducer("sum", "the sum of", Outcome::Number, &["total = 0"], &["total += {v}"], "total"),
    reducer("prod", "the product of", Outcome::Number, &["prod = 1"], &["prod *= {v}"], "prod"),
    reducer("count", "the number of", Outcome::Number, &["count = 0"], &["count += 1"], "count"),
    reducer(
        "max",
        "the largest of",
        Outcome::Optional,
        &["best = None"],
        &["if best is None or {v} > best:", "    best = {v}"],
        "best",
    ),
    reducer(
        "min",
        "the smallest of",
        Outcome::Optional,
        &["best = None"],
        &["if best is None or {v} < best:", "    best = {v}"],
        "best",
    ),
    reducer("list", "the list of", Outcome::List, &["out = []"], &["out.append({v})"], "out"),
    reducer(
        "uniq",
        "the list without repeats of",
        Outcome::List,
        &["out = []"],
        &["if {v} not in out:", "    out.append({v})"],
        "out",
    ),
    reducer("last", "the last of", Outcome::Optional, &["last = None"], &["last = {v}"], "last"),
    reducer(
        "alt",
        "the alternating sum, starting with plus, of",
        Outcome::Number,
        &["total = 0", "sign = 1"],
        &["total += sign * ({v})", "sign = -sign"],
        "total",
    ),
    reducer(
        "pref",
        "the list of running sums of",
        Outcome::List,
        &["out = []", "total = 0"],
        &["total += {v}", "out.append(total)"],
        "out",
    ),
    reducer(
        "rmax",
        "the list of new records (strictly larger than all before) among",
        Outcome::List,
        &["out = []"],
        &["if not out or {v} > out[-1]:", "    out.append({v})"],
        "out",
    ),
    reducer(
        "inc",
        "the number of increases between consecutive values of",
        Outcome::Number,
        &["count = 0", "prev = None"],
        &["if prev is not None and {v} > prev:", "    count += 1", "prev = {v}"],
        "count",
    ),
];

/// Reducers of characters. `run` and `idx` have loops of their own.
pub(super) const CHAR_REDUCERS: &[Reducer] = &[
    reducer("join", "the string made of", Outcome::Text, &["out = \"\""], &["out += {v}"], "out"),
    reducer("rjoin", "the reversed string made of", Outcome::Text, &["out = \"\""], &["out = {v} + out"], "out"),
    reducer("count", "the number of", Outcome::Number, &["count = 0"], &["count += 1"], "count"),
    reducer("list", "the list of", Outcome::List, &["out = []"], &["out.append({v})"], "out"),
    reducer(
        "uniq",
        "the list without repeats of",
        Outcome::List,
        &["out = []"],
        &["if {v} not in out:", "    out.append({v})"],
        "out",
    ),
    reducer("run", "the length of the longest run of", Outcome::Number, &["best = 0", "run = 0"], &[], "best"),
    reducer("idx", "the list of positions of", Outcome::List, &["out = []"], &["out.append(i)"], "out"),
    reducer(
        "freq",
        "the dictionary of counts of",
        Outcome::Raw,
        &["freq = {}"],
        &["freq[{v}] = freq.get({v}, 0) + 1"],
        "freq",
    ),
];

impl Reducer {
    /// The lines for each value, where the value is this code; one that stands twice gets a name first.
    pub(super) fn update(&self, value: &str, mapped: bool) -> Vec<String> {
        let uses: usize = self.update.iter().map(|line| line.matches("{v}").count()).sum();
        let named = mapped && uses > 1;
        let first = named.then(|| format!("v = {value}"));
        let value = if named { "v" } else { value };
        first.into_iter().chain(self.update.iter().map(|line| line.replace("{v}", value))).collect()
    }
}

/// The constants of one problem.
pub(super) struct Constants(Vec<(&'static str, String)>);

impl Constants {
    /// Draws them all.
    pub(super) fn draw(random: &mut Random) -> Self {
        let a = between(random, -9, 8);
        let mut constants = vec![("a", a.to_string()), ("b", (a + between(random, 4, 19)).to_string())];
        for (name, low, high) in [
            ("k", -5, 19),
            ("m", 3, 9),
            ("d", 0, 9),
            ("s", 3, 11),
            ("c", 1, 3),
            ("e", 2, 8),
            ("p", 1, 19),
            ("q", 5, 60),
            ("w", 2, 6),
            ("r", 2, 4),
        ] {
            constants.push((name, between(random, low, high).to_string()));
        }
        for (name, letters) in [("c1", "abcdefgiklmnoprstu"), ("c2", "aeioustrn"), ("p1", "-*_.+#")] {
            constants.push((name, letter(random, letters)));
        }
        Self(constants)
    }

    /// The value of a constant.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| *known == name);
        &found.unwrap_or_else(|| panic!("a template names an unknown constant {name:?}")).1
    }

    /// Changes a constant.
    pub(super) fn set(&mut self, name: &'static str, value: i64) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value.to_string()));
    }

    /// Puts the constants in, and leaves `{x}`, `{y}` and `{v}` as they are.
    pub(super) fn fill(&self, template: &str) -> String {
        let mut out = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').expect("braces of a template are closed");
            out.push_str(before);
            match name {
                "x" | "y" | "v" => out.push_str(&format!("{{{name}}}")),
                _ => out.push_str(self.get(name)),
            }
            rest = after;
        }
        out + rest
    }
}

/// Uniform from `low` to `high`, both included.
pub(super) fn between(random: &mut Random, low: i64, high: i64) -> i64 {
    low + random.below((high - low + 1) as usize) as i64
}

/// One of the letters.
pub(super) fn letter(random: &mut Random, letters: &str) -> String {
    char::from(*random.choose(letters.as_bytes())).to_string()
}

/// The relative clause that a test's words need behind a plural.
pub(super) fn that_are(words: &str) -> String {
    let bare = ["such", "ending", "at ", "starting", "containing", "not cont", "with", "of "];
    if bare.iter().any(|start| words.starts_with(start)) { words.to_owned() } else { format!("that are {words}") }
}

/// A test's words behind `is`.
pub(super) fn singular(words: &str) -> String {
    words.replace("perfect squares", "a perfect square")
}

/// The text of a helper function.
pub(super) fn helper(name: &str) -> &'static str {
    let found = HELPERS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("a template names an unknown helper {name:?}")).1
}

const HELPERS: &[(&str, &str)] = &[
    (
        "digit_sum",
        "def digit_sum(n):\n    n = abs(n)\n    total = 0\n    while n > 0:\n        total += n % 10\n        n //= 10\n    return total\n",
    ),
    (
        "is_prime",
        "def is_prime(n):\n    if n < 2:\n        return False\n    i = 2\n    while i * i <= n:\n        if n % i == 0:\n            return False\n        i += 1\n    return True\n",
    ),
    (
        "count_digits",
        "def count_digits(n):\n    n = abs(n)\n    count = 1\n    while n >= 10:\n        n //= 10\n        count += 1\n    return count\n",
    ),
    (
        "reverse_digits",
        "def reverse_digits(n):\n    n = abs(n)\n    rev = 0\n    while n > 0:\n        rev = rev * 10 + n % 10\n        n //= 10\n    return rev\n",
    ),
    (
        "count_divisors",
        "def count_divisors(n):\n    count = 0\n    for i in range(1, abs(n) + 1):\n        if n % i == 0:\n            count += 1\n    return count\n",
    ),
    ("is_square", "def is_square(n):\n    i = 0\n    while i * i < n:\n        i += 1\n    return i * i == n\n"),
    (
        "count_bits",
        "def count_bits(n):\n    n = abs(n)\n    count = 0\n    while n > 0:\n        if n % 2 == 1:\n            count += 1\n        n //= 2\n    return count\n",
    ),
    (
        "max_digit",
        "def max_digit(n):\n    n = abs(n)\n    best = 0\n    while n > 0:\n        if n % 10 > best:\n            best = n % 10\n        n //= 10\n    return best\n",
    ),
    (
        "count_vowels",
        "def count_vowels(w):\n    count = 0\n    for ch in w:\n        if ch in \"aeiou\":\n            count += 1\n    return count\n",
    ),
    (
        "is_palindrome",
        "def is_palindrome(w):\n    i = 0\n    j = len(w) - 1\n    while i < j:\n        if w[i] != w[j]:\n            return False\n        i += 1\n        j -= 1\n    return True\n",
    ),
];
