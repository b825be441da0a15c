//! The nine families: each draws a composition, words it as a question and writes the program that answers it.

mod lists;
mod numbers;
mod tables;
mod text;

use super::phrases::{Constants, Outcome, Phrase, between, singular};
use super::task::Draft;
use crate::random::Random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A family of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// A list of integers: test x map x reducer.
    Lists,
    /// The digits of a number.
    Digits,
    /// The integers of a range.
    Ranges,
    /// The characters of a string.
    Characters,
    /// The words of a text.
    Words,
    /// Pairs of elements of a list.
    Pairs,
    /// A list of lists, row by row.
    Grids,
    /// A running state that every value changes.
    State,
    /// A loop that goes on while a number is large.
    While,
}

impl Family {
    /// All of them, each with how often it is drawn.
    pub const ALL: [(Self, usize); 9] = [
        (Self::Lists, 10),
        (Self::Digits, 4),
        (Self::Ranges, 5),
        (Self::Characters, 6),
        (Self::Words, 4),
        (Self::Pairs, 4),
        (Self::Grids, 4),
        (Self::State, 4),
        (Self::While, 3),
    ];

    /// Draws a problem of the family.
    pub(super) fn draft(self, random: &mut Random) -> Draft {
        match self {
            Self::Lists => lists::draft(random),
            Self::Digits => numbers::digits(random),
            Self::Ranges => numbers::range(random),
            Self::Characters => text::characters(random),
            Self::Words => text::words(random),
            Self::Pairs => tables::pairs(random),
            Self::Grids => tables::grid(random),
            Self::State => tables::state(random),
            Self::While => numbers::halving(random),
        }
    }
}

/// A test of `x`, drawn from `table`: its key, its words and its code.
fn test(
    random: &mut Random,
    table: &[Phrase],
    constants: &Constants,
    draft: &mut Draft,
    x: &str,
) -> (String, String, String) {
    let phrase = random.choose(table);
    draft.need(phrase.helper);
    let code = constants.fill(phrase.code).replace("{x}", x);
    (phrase.key.to_owned(), constants.fill(phrase.words), code)
}

/// A map of `x`, drawn from the maps at these places of the table, the first of which leaves it as it is and is drawn more often.
fn map(random: &mut Random, table: &'static [Phrase]) -> &'static Phrase {
    let place = random.below(table.len() + 2).saturating_sub(2);
    &table[place]
}

/// A question's words for a map, behind the values.
fn mapped(constants: &Constants, map: &Phrase) -> String {
    if map.words.is_empty() { String::new() } else { format!(", {}", constants.fill(map.words)) }
}

/// Draws what is done with the result at the end, and returns it.
fn end(random: &mut Random, draft: &mut Draft, result: &str, outcome: Outcome) {
    let choose = |random: &mut Random, choices: &[&'static str]| *random.choose(choices);
    let mut returned = result.to_owned();
    let guard = |draft: &mut Draft, test: String, action: String, words: String| {
        draft.lines([format!("if {test}:"), format!("    {action}")]);
        draft.say(words);
    };
    match outcome {
        Outcome::Optional => {
            let key = choose(random, &["none", "dflt", "dflt"]);
            if key == "dflt" {
                let other = between(random, 1, 99);
                let value = *random.choose(&[-1, 0, other]);
                guard(
                    draft,
                    format!("{result} is None"),
                    format!("return {value}"),
                    format!("If there is none, return {value}."),
                );
            }
            draft.key(&[key]);
        }
        Outcome::Number => {
            let key = choose(random, &["no", "no", "cap", "floor", "oddup", "neg", "mod", "bool"]);
            let c = between(random, 5, 60);
            match key {
                "cap" => guard(
                    draft,
                    format!("{result} > {c}"),
                    format!("return {c}"),
                    format!("If the result is more than {c}, return {c}."),
                ),
                "floor" => guard(
                    draft,
                    format!("{result} < {c}"),
                    format!("return {c}"),
                    format!("If the result is below {c}, return {c}."),
                ),
                "oddup" => guard(
                    draft,
                    format!("{result} % 2 == 1"),
                    format!("{result} += 1"),
                    "If the result is odd, add one to it.".into(),
                ),
                "neg" => guard(
                    draft,
                    format!("{result} > {c}"),
                    format!("{result} = -{result}"),
                    format!("If the result is more than {c}, negate it."),
                ),
                "mod" => {
                    returned = format!("{result} % {c}");
                    draft.say(format!("Return the result modulo {c}."));
                }
                "bool" => {
                    let c = between(random, 2, 20);
                    returned = format!("{result} > {c}");
                    draft.say(format!("Return whether the result is more than {c}."));
                }
                _ => {}
            }
            draft.key(&[key]);
        }
        Outcome::List => {
            let key = choose(random, &["no", "no", "rev", "sort", "first", "empty"]);
            let c = between(random, 2, 4);
            match key {
                "rev" => {
                    returned = format!("{result}[::-1]");
                    draft.say("Return the list reversed.");
                }
                "sort" => {
                    returned = format!("sorted({result})");
                    draft.say("Return the list sorted.");
                }
                "first" => {
                    returned = format!("{result}[:{c}]");
                    draft.say(format!("Return only the first {c} of them."));
                }
                "empty" => {
                    let value = *random.choose(&[-1, 0]);
                    guard(
                        draft,
                        format!("not {result}"),
                        format!("return [{value}]"),
                        format!("If the list is empty, return [{value}]."),
                    );
                }
                _ => {}
            }
            draft.key(&[key]);
        }
        Outcome::Text => {
            let key = choose(random, &["no", "no", "empty", "cut"]);
            let c = between(random, 3, 6);
            match key {
                "empty" => guard(
                    draft,
                    format!("not {result}"),
                    "return \"none\"".into(),
                    "If it is empty, return \"none\".".into(),
                ),
                "cut" => guard(
                    draft,
                    format!("len({result}) > {c}"),
                    format!("return {result}[:{c}]"),
                    format!("If it is longer than {c}, keep only the first {c} characters."),
                ),
                _ => {}
            }
            draft.key(&[key]);
        }
        Outcome::Raw => {}
    }
    draft.lines([format!("return {returned}")]);
}

/// `is even`, `is such that ...`, for one value.
fn is(words: &str) -> String {
    format!("is {}", singular(words))
}
