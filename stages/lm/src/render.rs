//! Examples to token ids and weights.
//!
//! An example is segments of raw text and special tokens, with weighted byte spans. Segments are encoded apart, so no token
//! joins a prompt and its response; user text is encoded with special-token parsing off, so a question that holds `<|im_end|>`
//! stays text. A token takes the largest weight of the spans that its bytes overlap; a special token carries its own.

use std::ops::Range;

use ablate_stages::columns::{Segment, Special};

use crate::error::Result;

/// What turns segments into tokens: a tokenizer, and its chat template.
pub trait Encode {
    /// Encodes plain text, special-token parsing off: ids, each with the bytes it stands for.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    fn text(&self, text: &str) -> Result<Vec<(i64, Range<usize>)>>;

    /// Returns the token or tokens that play a role.
    ///
    /// # Errors
    /// Where the model has no token for it.
    fn special(&self, special: Special) -> Result<Vec<i64>>;
}

/// Tokens, each with the weight of its loss.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<i64>,
    /// `w_t`; 0 where there is no loss.
    pub weights: Vec<f32>,
}

impl Tokens {
    /// Returns the places of the tokens that carry weight.
    pub fn weighted(&self) -> impl Iterator<Item = usize> + '_ {
        self.weights.iter().enumerate().filter(|&(_, &weight)| weight != 0.0).map(|(place, _)| place)
    }

    /// Returns how many tokens must be run to predict all weighted ones: nothing from the last weighted token on.
    pub fn run_len(&self) -> usize {
        self.weighted().last().unwrap_or(0)
    }
}

/// An example as tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The example's id.
    pub id: String,
    /// What both responses share. The very first token of a sequence carries no weight: nothing predicts it.
    pub prompt: Tokens,
    /// The chosen (or only) response, then the rejected one if it is scored.
    pub responses: Vec<Tokens>,
}

impl Rendered {
    /// Returns the weights of the tokens of one sequence, prompt and response, that carry weight.
    pub fn sequence_weights(&self, response: usize) -> impl Iterator<Item = f32> + '_ {
        let response = &self.responses[response];
        self.prompt.weights.iter().chain(&response.weights).copied().filter(|&weight| weight != 0.0)
    }
}

/// Why an example is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// A side has more tokens than allowed.
    TooLong {
        /// Tokens of the longest side, its prompt included.
        tokens: usize,
    },
    /// A side has no token that carries weight.
    NoWeight,
}

impl LeftOut {
    /// Returns the reason in words that can be counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too-long",
            Self::NoWeight => "no-weighted-token",
        }
    }

    /// Returns what exactly was found.
    pub fn detail(self) -> Option<String> {
        match self {
            Self::TooLong { tokens } => Some(format!("{tokens} tokens")),
            Self::NoWeight => None,
        }
    }
}

/// Renders an example; `rejected` is `None` where the rejected side is not scored or there is none.
///
/// # Errors
/// Where the tokenizer refuses; a model without a needed special token is named.
pub fn render(
    encode: &dyn Encode,
    id: &str,
    prompt: &[Segment],
    chosen: &[Segment],
    rejected: Option<&[Segment]>,
    max_tokens: usize,
) -> Result<Result<Rendered, LeftOut>> {
    let mut prompt = tokens(encode, prompt)?;
    let mut responses = vec![tokens(encode, chosen)?];
    if let Some(rejected) = rejected {
        responses.push(tokens(encode, rejected)?);
    }
    // Nothing predicts the first token of a sequence.
    if prompt.ids.is_empty() {
        for response in &mut responses {
            response.weights.first_mut().map(|weight| *weight = 0.0);
        }
    } else {
        prompt.weights[0] = 0.0;
    }
    let longest = responses.iter().map(|response| prompt.ids.len() + response.ids.len()).max().unwrap_or(0);
    if longest > max_tokens {
        return Ok(Err(LeftOut::TooLong { tokens: longest }));
    }
    let rendered = Rendered { id: id.to_owned(), prompt, responses };
    if (0..rendered.responses.len()).any(|side| rendered.sequence_weights(side).next().is_none()) {
        return Ok(Err(LeftOut::NoWeight));
    }
    Ok(Ok(rendered))
}

fn tokens(encode: &dyn Encode, segments: &[Segment]) -> Result<Tokens> {
    let mut tokens = Tokens::default();
    for segment in segments {
        if let Some(special) = segment.special {
            let weight = segment.spans.iter().map(|span| span.weight).fold(0.0, f32::max);
            for id in encode.special(special)? {
                tokens.ids.push(id);
                tokens.weights.push(weight);
            }
        }
        let Some(text) = segment.text.as_deref().filter(|text| !text.is_empty()) else { continue };
        for (id, bytes) in encode.text(text)? {
            let weight = segment
                .spans
                .iter()
                .filter(|span| (span.start as usize) < bytes.end && bytes.start < span.end as usize)
                .map(|span| span.weight)
                .fold(0.0, f32::max);
            tokens.ids.push(id);
            tokens.weights.push(weight);
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_stages::columns::Span;

    /// Every three bytes are a token whose id is its first byte; special tokens have ids from 1000.
    struct Triples;

    impl Encode for Triples {
        fn text(&self, text: &str) -> Result<Vec<(i64, Range<usize>)>> {
            let bytes = text.as_bytes();
            Ok((0..bytes.len())
                .step_by(3)
                .map(|start| (i64::from(bytes[start]), start..(start + 3).min(bytes.len())))
                .collect())
        }

        fn special(&self, special: Special) -> Result<Vec<i64>> {
            Ok(match special {
                Special::AssistantStart => vec![1001, 1002],
                _ => vec![1000],
            })
        }
    }

    fn spans(text: &str, spans: &[(u32, u32, f32)]) -> Segment {
        let spans = spans.iter().map(|&(start, end, weight)| Span { start, end, weight }).collect();
        Segment { spans, ..Segment::text(text) }
    }

    #[test]
    fn a_token_takes_the_largest_weight_of_the_spans_it_overlaps() {
        let segments = [spans("abcdefghi", &[(2, 4, 0.5), (3, 4, 2.0), (8, 9, 1.0)])];
        let found = tokens(&Triples, &segments).unwrap();
        assert_eq!(found.ids, [97, 100, 103]);
        assert_eq!(found.weights, [0.5, 2.0, 1.0]);
        assert_eq!(found.run_len(), 2);
    }

    #[test]
    fn segments_are_encoded_apart_and_specials_carry_their_own_weight() {
        let segments = [
            Segment::text("ab"),
            Segment::special(Special::AssistantStart),
            Segment::target("c"),
            Segment::special_target(Special::End),
        ];
        let found = tokens(&Triples, &segments).unwrap();
        assert_eq!(found.ids, [97, 1001, 1002, 99, 1000]);
        assert_eq!(found.weights, [0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    fn rendered(prompt: &[Segment], chosen: &[Segment], max_tokens: usize) -> Result<Rendered, LeftOut> {
        render(&Triples, "x", prompt, chosen, None, max_tokens).unwrap()
    }

    #[test]
    fn an_example_too_long_is_left_out_and_never_cut() {
        let (prompt, chosen) = ([Segment::text("abcdef")], [Segment::target("abcd")]);
        assert_eq!(rendered(&prompt, &chosen, 3), Err(LeftOut::TooLong { tokens: 4 }));
        assert_eq!(rendered(&prompt, &chosen, 4).unwrap().responses[0].ids.len(), 2);
    }

    #[test]
    fn an_example_without_weight_is_left_out() {
        assert_eq!(rendered(&[Segment::text("abc")], &[Segment::text("abc")], 9), Err(LeftOut::NoWeight));
    }

    #[test]
    fn the_first_token_of_a_sequence_carries_no_weight() {
        let found = rendered(&[Segment::target("abcdef")], &[Segment::target("x")], 9).unwrap();
        assert_eq!(found.prompt.weights, [0.0, 1.0]);
        let alone = rendered(&[], &[Segment::target("abcdef")], 9).unwrap();
        assert_eq!(alone.responses[0].weights, [0.0, 1.0]);
    }
}
