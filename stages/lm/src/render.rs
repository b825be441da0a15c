//! Examples to token ids and weights.
//!
//! An example is segments of raw text and special tokens, with weighted byte spans; [`Tokenizer::encode_segments`] says how they
//! become tokens. Here prompt and responses come together: they are encoded apart, so no token joins them, and an example that
//! is too long, or has a side without loss, is left out with its reason. Nothing is ever cut.

use ablate_stages::columns::Segment;

use crate::error::Result;
use crate::tokenizer::{Tokenizer, WeightedTokens};

/// Tokens, each with the weight of its loss.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<i64>,
    /// `w_t`; 0 where there is no loss.
    pub weights: Vec<f32>,
}

impl From<WeightedTokens> for Tokens {
    fn from(tokens: WeightedTokens) -> Self {
        Self { ids: tokens.ids, weights: tokens.weights }
    }
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
        /// Tokens allowed.
        limit: usize,
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
            Self::TooLong { tokens, limit } => Some(format!("{tokens} tokens, at most {limit} are taken")),
            Self::NoWeight => None,
        }
    }
}

/// Renders an example; `rejected` is `None` where the rejected side is not scored or there is none.
///
/// # Errors
/// Where the tokenizer refuses; a model without a needed special token is named.
pub fn render(
    tokenizer: &Tokenizer,
    id: &str,
    prompt: &[Segment],
    chosen: &[Segment],
    rejected: Option<&[Segment]>,
    max_tokens: usize,
) -> Result<Result<Rendered, LeftOut>> {
    let after = Tokenizer::last_special(prompt);
    let mut prompt = Tokens::from(tokenizer.encode_segments(prompt)?);
    let mut responses = vec![Tokens::from(tokenizer.encode_segments_after(chosen, after)?)];
    if let Some(rejected) = rejected {
        responses.push(tokenizer.encode_segments_after(rejected, after)?.into());
    }
    // Nothing predicts the first token of a sequence.
    let firsts: Vec<&mut Tokens> =
        if prompt.ids.is_empty() { responses.iter_mut().collect() } else { vec![&mut prompt] };
    for tokens in firsts {
        if let Some(weight) = tokens.weights.first_mut() {
            *weight = 0.0;
        }
    }
    let longest = responses.iter().map(|response| prompt.ids.len() + response.ids.len()).max().unwrap_or(0);
    if longest > max_tokens {
        return Ok(Err(LeftOut::TooLong { tokens: longest, limit: max_tokens }));
    }
    let rendered = Rendered { id: id.to_owned(), prompt, responses };
    if (0..rendered.responses.len()).any(|side| rendered.sequence_weights(side).next().is_none()) {
        return Ok(Err(LeftOut::NoWeight));
    }
    Ok(Ok(rendered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use ablate_stages::columns::{Span, Special};
    use tch::Kind;

    /// The test tokenizer: bytes, and `def` as one token.
    fn tokenizer() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        testing::write_model(folder.path(), &testing::tiny_config(), 1, Kind::Float).unwrap();
        Tokenizer::load(folder.path()).unwrap()
    }

    fn rendered(prompt: &[Segment], chosen: &[Segment], max_tokens: usize) -> Result<Rendered, LeftOut> {
        render(&tokenizer(), "x", prompt, chosen, None, max_tokens).unwrap()
    }

    #[test]
    fn a_token_takes_the_largest_weight_of_the_spans_it_overlaps() {
        let spans = [(1, 2, 0.5), (2, 3, 2.0), (4, 5, 1.0)];
        let spans = spans.map(|(start, end, weight)| Span { start, end, weight }).into();
        let chosen = Segment { spans, ..Segment::text("def f") };
        let found = rendered(&[Segment::special(Special::FimMiddle)], &[chosen], 9).unwrap();
        assert_eq!(found.responses[0].weights, [2.0, 0.0, 1.0]);
        assert_eq!(found.responses[0].run_len(), 2);
    }

    #[test]
    fn prompt_and_response_are_encoded_apart() {
        let found = rendered(&[Segment::text("de")], &[Segment::target("f"), Segment::special_target(Special::End)], 9);
        let found = found.unwrap();
        assert_eq!((found.prompt.ids.len(), found.responses[0].ids.len()), (1, 2));
        assert_eq!(found.responses[0].weights, [1.0, 1.0]);
    }

    #[test]
    fn an_example_too_long_is_left_out_and_never_cut() {
        let (prompt, chosen) = ([Segment::text("xyz")], [Segment::target("abcd")]);
        assert_eq!(rendered(&prompt, &chosen, 6), Err(LeftOut::TooLong { tokens: 7, limit: 6 }));
        assert_eq!(rendered(&prompt, &chosen, 7).unwrap().responses[0].ids.len(), 4);
    }

    #[test]
    fn an_example_without_weight_is_left_out() {
        assert_eq!(rendered(&[Segment::text("abc")], &[Segment::text("abc")], 9), Err(LeftOut::NoWeight));
    }

    #[test]
    fn the_first_token_of_a_sequence_carries_no_weight() {
        let found = rendered(&[Segment::target("xy")], &[Segment::target("z")], 9).unwrap();
        assert_eq!(found.prompt.weights, [0.0, 1.0]);
        let alone = rendered(&[], &[Segment::target("xy")], 9).unwrap();
        assert_eq!(alone.responses[0].weights, [0.0, 1.0]);
    }
}
