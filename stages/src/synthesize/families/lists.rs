//! Lists of integers: a test, a map and a reducer over some order of the elements, with an early stop and a guard.

use super::super::eval::Value;
use super::super::phrases::{Constants, NUMBER_MAPS, NUMBER_REDUCERS, NUMBER_TESTS, between, singular, that_are};
use super::super::task::{Draft, indented};
use super::{end, map, mapped, test};
use crate::random::Random;

pub(super) fn draft(random: &mut Random) -> Draft {
    let constants = Constants::draw(random);
    let others = Constants::draw(random);
    let mut draft = Draft::new("lists", "xs", Box::new(|random| vec![integers(random, &[0, 1, 2, 3, 5, 6, 7, 8, 9])]));
    let style = *random.choose(&["for", "for", "for", "while", "rev", "step2", "enum", "tail"]);
    let stop = *random.choose(&["no", "no", "no", "stop", "skip"]);
    let (test_key, words, code) = if style == "enum" {
        let m = constants.get("m");
        let (key, words, code) = match random.below(4) {
            0 => ("evpos", "at even positions".to_owned(), "i % 2 == 0".to_owned()),
            1 => ("oddpos", "at odd positions".to_owned(), "i % 2 == 1".to_owned()),
            2 => ("gtpos", "greater than their position".to_owned(), "x > i".to_owned()),
            _ => ("multpos", format!("at positions divisible by {m}"), format!("i % {m} == 0")),
        };
        (key.to_owned(), words, code)
    } else {
        test(random, NUMBER_TESTS, &constants, &mut draft, "x")
    };
    let reducer = random.choose(NUMBER_REDUCERS);
    let map = if reducer.key == "count" { &NUMBER_MAPS[0] } else { map(random, NUMBER_MAPS) };
    draft.need(map.helper);
    let update = reducer.update(&constants.fill(map.code).replace("{x}", "x"), map.key != "id");
    draft.key(&[style, stop, &test_key, map.key, reducer.key]);
    let order = match style {
        "rev" => ", going from right to left",
        "step2" => ", looking only at every second element",
        "tail" => ", ignoring the first element",
        _ => "",
    };
    let opening = *random.choose(&[
        "Given a list of integers xs, find",
        "For the list xs, return",
        "You are given integers xs. Compute",
    ]);
    let noun = *random.choose(&["elements", "numbers", "values"]);
    draft.say(format!(
        "{opening} {} the {noun} {}{}{order}.",
        reducer.words,
        that_are(&words),
        mapped(&constants, map)
    ));

    let mut body = Vec::new();
    if stop != "no" {
        let (key, words, code) = test(random, NUMBER_TESTS, &others, &mut draft, "x");
        draft.key(&[&key]);
        let clause = singular(&that_are(&words).replace("that are ", "that is "));
        draft.say(if stop == "stop" {
            format!("Stop at the first one {clause}.")
        } else {
            format!("Ignore any one {clause}.")
        });
        body.extend([format!("if {code}:"), format!("    {}", if stop == "stop" { "break" } else { "continue" })]);
    }
    body.push(format!("if {code}:"));
    body.extend(indented(update));

    let guard = *random.choose(&["no", "no", "no", "empty", "short"]);
    let value = random.choose(&["0", "-1", constants.get("p")]).to_string();
    let least = between(random, 2, 4);
    match guard {
        "empty" => draft.lines(["if not xs:".to_owned(), format!("    return {value}")]),
        "short" => draft.lines([format!("if len(xs) < {least}:"), format!("    return {value}")]),
        _ => {}
    }
    draft.key(&[guard]);
    draft.lines(reducer.start.iter().copied());
    match style {
        "while" => {
            draft.say("Use a while loop.");
            // Skipping must not skip the step.
            let step = ["i += 1".to_owned()];
            body = if stop == "skip" {
                [vec!["x = xs[i]".to_owned()], step.to_vec(), body].concat()
            } else {
                [vec!["x = xs[i]".to_owned()], body, step.to_vec()].concat()
            };
            draft.lines(["i = 0", "while i < len(xs):"]);
        }
        "enum" => draft.lines(["for i, x in enumerate(xs):"]),
        "rev" => draft.lines(["for x in reversed(xs):"]),
        "step2" => draft.lines(["for x in xs[::2]:"]),
        "tail" => draft.lines(["for x in xs[1:]:"]),
        _ => draft.lines(["for x in xs:"]),
    }
    draft.lines(indented(body));
    end(random, &mut draft, reducer.result, reducer.outcome);
    match guard {
        "empty" => draft.say(format!("Return {value} for an empty list.")),
        "short" => draft.say(format!("Return {value} if there are fewer than {least} elements.")),
        _ => {}
    }
    draft
}

fn integers(random: &mut Random, lengths: &[usize]) -> Value {
    let length = *random.choose(lengths);
    let draw = |random: &mut Random| {
        if random.uniform() < 0.7 { between(random, -20, 40) } else { between(random, -150, 400) }
    };
    Value::list((0..length).map(|_| Value::Int(draw(random))).collect())
}
