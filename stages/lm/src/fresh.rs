//! Untrained models: a byte-level BPE tokenizer learned from text, a chat template, random weights.
//!
//! The tokenizer's pieces never join a newline or an indentation with what follows, so blocks that are cut at line borders
//! never cut a token. It has one token for the start of each role's turn: short prompts matter to a context of a few hundred.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::transformer::Transformer;
use crate::weights;

/// The special tokens, in the order of their ids.
pub const SPECIALS: [&str; 8] = [
    "<|pad|>",
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
];
/// The id of `<|pad|>`.
const PAD: i64 = 0;
/// The id of `<|endoftext|>`, which ends documents, middles and turns of the assistant.
pub const END: i64 = 1;

/// A newline; an indentation; a word or name with the space before it; a digit; other signs with the space before them; a space.
const PIECES: &str = r"\n| {2,}| ?[A-Za-z_]+|[0-9]| ?[^\sA-Za-z0-9_]+| ";

/// `<|user|>question<|assistant|>answer<|endoftext|>`.
const CHAT_TEMPLATE: &str = "{%- for message in messages %}{{- '<|' + message['role'] + '|>' + message['content'] }}\
{%- if message['role'] == 'assistant' %}{{- '<|endoftext|>' }}{%- endif %}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}";

/// Learns a tokenizer of at most `vocab_size` tokens from texts; the same texts give the same tokenizer.
///
/// # Errors
/// `Invalid` where the `tokenizers` library refuses.
pub fn learn_tokenizer(texts: &[&str], vocab_size: u32) -> Result<Tokenizer> {
    let refuse = |error: tokenizers::Error| ModelError::Invalid(format!("learning a tokenizer: {error}"));
    let bytes = ByteLevel::new(false, false, false);
    let split =
        Split::new(SplitPattern::Regex(PIECES.to_owned()), SplitDelimiterBehavior::Isolated, false).map_err(refuse)?;
    let pieces = [PreTokenizerWrapper::from(split), PreTokenizerWrapper::from(bytes)];
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(pieces.into())));
    tokenizer.with_decoder(Some(bytes));
    let specials = SPECIALS.map(|text| AddedToken::from(text, true)).into();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size as usize)
        .show_progress(false)
        .special_tokens(specials)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter()).map_err(refuse)?;
    Ok(tokenizer)
}

/// Writes an untrained model as a Hugging Face folder, which must exist.
///
/// # Errors
/// `Io` where a file cannot be written, `Torch` where the memory does not suffice.
pub fn write(folder: &Path, config: &ModelConfig, tokenizer: &Tokenizer, seed: u64, kind: Kind) -> Result<()> {
    let json = tokenizer.to_string(true).map_err(|error| ModelError::Invalid(format!("the tokenizer: {error}")))?;
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIALS[END as usize],
        "pad_token": SPECIALS[PAD as usize],
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_positions,
        "chat_template": CHAT_TEMPLATE,
    });
    let generation = json!({ "eos_token_id": END, "pad_token_id": PAD, "do_sample": false });
    let text = |value: &Value| format!("{value:#}\n");
    for (name, content) in [
        ("config.json", text(&config.to_json(weights::dtype_name(kind)))),
        ("tokenizer.json", json),
        ("tokenizer_config.json", text(&settings)),
        ("generation_config.json", text(&generation)),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(ModelError::io(&path))?;
    }
    let model = Transformer::random(config.clone(), seed, Kind::Float, Device::Cpu)?;
    weights::write(folder, model.parameters(), kind, weights::MAX_SHARD_BYTES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::tokenizer;
    use ablate_stages::columns::{Segment, Special};

    const TEXTS: [&str; 3] = [
        "def solve(xs):\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x\n    return total\n",
        "def solve(s):\n    out = []\n    for c in s:\n        out.append(c)\n    return out\n",
        "Return the sum of the positive numbers.",
    ];

    #[test]
    fn learning_is_repeatable_and_never_joins_an_indentation_with_what_follows() {
        let learned = learn_tokenizer(&TEXTS, 300).unwrap();
        assert_eq!(learned.to_string(false).unwrap(), learn_tokenizer(&TEXTS, 300).unwrap().to_string(false).unwrap());
        assert_eq!(learned.get_vocab_size(true), 300);
        let encoding = learned.encode("for x in xs:\n        total = 0\n", false).unwrap();
        let pieces: Vec<&str> = encoding.get_tokens().iter().map(String::as_str).collect();
        // Byte-level writing: Ċ is a newline, Ġ a space.
        assert!(pieces.contains(&"Ċ"), "{pieces:?}");
        assert!(pieces.iter().all(|piece| *piece == "Ċ" || !piece.contains('Ċ')), "{pieces:?}");
        assert!(pieces.iter().all(|piece| !piece.starts_with("ĠĠ") || piece.chars().all(|c| c == 'Ġ')), "{pieces:?}");
    }

    #[test]
    fn a_fresh_folder_has_a_tokenizer_with_every_role_and_loads() {
        let folder = tempfile::tempdir().unwrap();
        let learned = learn_tokenizer(&TEXTS, 300).unwrap();
        let config = ModelConfig { vocab_size: 300, eos_token_ids: vec![END], ..testing::tiny_config() };
        write(folder.path(), &config, &learned, 3, Kind::BFloat16).unwrap();
        let model = Transformer::load(folder.path(), Kind::Float, Device::Cpu).unwrap();
        assert_eq!(model.config().vocab_size, 300);
        let tokenizer = tokenizer::Tokenizer::load(folder.path()).unwrap();
        let ids = |special: Special| tokenizer.special(special, None).unwrap().to_vec();
        let roles = [
            (Special::End, 1),
            (Special::SystemStart, 2),
            (Special::UserStart, 3),
            (Special::AssistantStart, 4),
            (Special::FimPrefix, 5),
            (Special::FimSuffix, 6),
            (Special::FimMiddle, 7),
            (Special::TurnEnd, 1),
        ];
        for (special, id) in roles {
            assert_eq!(ids(special), [id], "{special:?}");
        }
        assert!(tokenizer.stop_ids().contains(&END));
        let text = "def f(x):\n    return x  # <|endoftext|> é\n";
        let tokens = tokenizer.encode_segments(&[Segment::text(text)]).unwrap();
        assert!(!tokens.ids.contains(&END));
        assert_eq!(tokenizer.decode(&tokens.ids).unwrap(), text);
    }
}
