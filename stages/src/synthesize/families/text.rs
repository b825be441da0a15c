//! Strings: the characters of one, the words of one.

use super::super::eval::Value;
use super::super::phrases::{
    CHAR_MAPS, CHAR_REDUCERS, CHAR_TESTS, Constants, Outcome, WORD_MAPS, WORD_TESTS, letter, that_are,
};
use super::super::task::{Draft, indented};
use super::{end, map, mapped};
use crate::random::Random;

/// The characters of a string.
pub(super) fn characters(random: &mut Random) -> Draft {
    let constants = Constants::draw(random);
    let own = [constants.get("c1"), constants.get("c2"), &constants.get("c1").to_uppercase()].concat();
    let input = move |random: &mut Random| {
        let length = *random.choose(&[0, 1, 4, 8, 10, 12, 14]);
        let mut text = String::new();
        for _ in 0..length {
            let letters = if random.uniform() < 0.25 { &own } else { "aeioubcdfgrstnlmpAEBCTS0123456789 xyz?!" };
            // Runs make the longest run, and what is without repeats, worth asking for.
            text.push_str(&letter(random, letters).repeat(*random.choose(&[1, 1, 2, 3])));
        }
        text.truncate(18);
        vec![Value::Str(text.into())]
    };
    let mut draft = Draft::new("characters", "s", Box::new(input));
    let test = random.choose(CHAR_TESTS);
    let code = constants.fill(test.code).replace("{x}", "ch");
    let reducer = random.choose(CHAR_REDUCERS);
    let plain = matches!(reducer.key, "count" | "run" | "idx");
    let map = if plain { &CHAR_MAPS[0] } else { random.choose(CHAR_MAPS) };
    let also = *random.choose(&["no", "no", "else", "skip", "stop"]);
    draft.key(&[test.key, map.key, reducer.key, also]);
    let opening =
        *random.choose(&["Given a string s, find", "For the text s, return", "You are given a string s. Compute"]);
    let words = constants.fill(test.words);
    draft.say(format!("{opening} {} the characters that are {words}{}.", reducer.words, mapped(&constants, map)));
    let mut body = Vec::new();
    if also == "skip" || also == "stop" {
        let c = letter(random, "xyz ?!");
        let (action, sentence) = if also == "skip" {
            ("continue", format!("Skip every \"{c}\"."))
        } else {
            ("break", format!("Stop at the first \"{c}\"."))
        };
        body.extend([format!("if ch == \"{c}\":"), format!("    {action}")]);
        draft.say(sentence);
    }
    body.push(format!("if {code}:"));
    if reducer.key == "run" {
        body.extend(indented(["run += 1", "if run > best:", "    best = run"]));
        body.extend(["else:".to_owned(), "    run = 0".to_owned()]);
    } else {
        body.extend(indented(reducer.update(&constants.fill(map.code).replace("{x}", "ch"), map.key != "id")));
    }
    if also == "else" {
        let mark = constants.get("p1");
        let other = match reducer.key {
            "join" => Some((format!("out += \"{mark}\""), format!("Write \"{mark}\" for every other character."))),
            "list" => Some(("out.append(0)".to_owned(), "Put 0 for every other character.".to_owned())),
            "count" => Some(("count -= 1".to_owned(), "Subtract one for every other character.".to_owned())),
            _ => None,
        };
        if let Some((line, sentence)) = other {
            body.extend(["else:".to_owned(), format!("    {line}")]);
            draft.say(sentence);
        }
    }
    let guard = *random.choose(&["no", "no", "strip", "empty"]);
    match guard {
        "strip" => {
            draft.lines(["s = s.lower()"]);
            draft.say("Ignore case by lowering s first.");
        }
        "empty" => {
            draft.lines(["if len(s) == 0:", "    return -1"]);
            draft.say("Return -1 for an empty string.");
        }
        _ => {}
    }
    draft.key(&[guard]);
    draft.lines(reducer.start.iter().copied());
    draft.lines([if reducer.key == "idx" { "for i, ch in enumerate(s):" } else { "for ch in s:" }]);
    draft.lines(indented(body));
    end(random, &mut draft, reducer.result, reducer.outcome);
    draft
}

const WORDS: &[&str] = &[
    "the", "a", "end", "and", "level", "noon", "anna", "tree", "apple", "banana", "sun", "moon", "radar", "code",
    "paper", "table", "orange", "it", "is", "go", "stone", "river", "queue", "fish", "bird", "lamp", "kayak", "eye",
    "up", "dog", "letter", "garden", "island", "mouse", "pop",
];

/// The words of a text.
pub(super) fn words(random: &mut Random) -> Draft {
    let input = |random: &mut Random| {
        let length = *random.choose(&[0, 1, 3, 5, 6, 7, 8]);
        let words: Vec<&str> = (0..length).map(|_| *random.choose(WORDS)).collect();
        vec![Value::Str(words.join(" ").into())]
    };
    let mut draft = Draft::new("words", "text", Box::new(input));
    let constants = Constants::draw(random);
    let order = *random.choose(&["f", "f", "r", "i"]);
    let (test_key, test_words, code) = if order == "i" {
        ("pos", "at even positions".to_owned(), "i % 2 == 0".to_owned())
    } else {
        let test = random.choose(WORD_TESTS);
        draft.need(test.helper);
        (test.key, constants.fill(test.words), constants.fill(test.code).replace("{x}", "w"))
    };
    let result = *random.choose(&["list", "join", "count", "longest", "shortest", "last", "sum", "uniq", "first"]);
    let (strings, numbers) = WORD_MAPS.split_at(WORD_MAPS.len() - 2);
    let map = match result {
        "count" | "longest" | "shortest" => &WORD_MAPS[0],
        "sum" => random.choose(numbers),
        "join" => map(random, strings),
        _ => map(random, WORD_MAPS),
    };
    draft.need(map.helper);
    let v = constants.fill(map.code).replace("{x}", "w");
    let separator = *random.choose(&["-", ",", " ", "_", "/"]);
    let join = format!("\"{separator}\".join(out)");
    let (phrase, start, update, returned, outcome) = match result {
        "list" => ("the list of", "out = []", vec![format!("out.append({v})")], "out", Outcome::List),
        "uniq" => (
            "the list without repeats of",
            "out = []",
            vec![format!("if {v} not in out:"), format!("    out.append({v})")],
            "out",
            Outcome::List,
        ),
        "join" => ("", "out = []", vec![format!("out.append({v})")], join.as_str(), Outcome::Raw),
        "count" => ("the number of", "count = 0", vec!["count += 1".to_owned()], "count", Outcome::Number),
        "sum" => ("the sum of", "total = 0", vec![format!("total += {v}")], "total", Outcome::Number),
        "longest" => (
            "the longest (first on ties) of",
            "best = \"\"",
            vec!["if len(w) > len(best):".to_owned(), "    best = w".to_owned()],
            "best",
            Outcome::Text,
        ),
        "shortest" => (
            "the shortest (first on ties) of",
            "best = None",
            vec!["if best is None or len(w) < len(best):".to_owned(), "    best = w".to_owned()],
            "best",
            Outcome::Optional,
        ),
        "last" => ("the last of", "last = None", vec![format!("last = {v}")], "last", Outcome::Optional),
        _ => ("the first of", "", vec![format!("return {v}")], "None", Outcome::Raw),
    };
    let phrase =
        if result == "join" { format!("the string joined with \"{separator}\" of") } else { phrase.to_owned() };
    draft.key(&[order, test_key, map.key, result]);
    let opening = *random.choose(&[
        "Split text into words and find",
        "Given a sentence text, return",
        "For the words of text, compute",
    ]);
    let direction = if order == "r" { ", going from the last word to the first" } else { "" };
    draft.say(format!("{opening} {phrase} the words {}{}{direction}.", that_are(&test_words), mapped(&constants, map)));
    let mut body = Vec::new();
    if random.uniform() < 0.3 {
        let word = *random.choose(&["the", "a", "end", "and"]);
        let (key, action, sentence) = if random.below(2) == 0 {
            ("skip", "continue", format!("Skip the word \"{word}\"."))
        } else {
            ("stop", "break", format!("Stop at the word \"{word}\"."))
        };
        draft.key(&[key]);
        body.extend([format!("if w == \"{word}\":"), format!("    {action}")]);
        draft.say(sentence);
    }
    body.push(format!("if {code}:"));
    body.extend(indented(update));
    draft.lines(["words = text.split()"]);
    draft.lines((!start.is_empty()).then_some(start));
    draft.lines([match order {
        "r" => "for w in reversed(words):",
        "i" => "for i, w in enumerate(words):",
        _ => "for w in words:",
    }]);
    draft.lines(indented(body));
    end(random, &mut draft, returned, outcome);
    draft
}
