//! One or two numbers: the digits of one, the integers from one to another, and what a number becomes while it is large.

use super::super::eval::Value;
use super::super::phrases::{
    Constants, NUMBER_MAPS, NUMBER_REDUCERS, NUMBER_TESTS, Outcome, Phrase, Reducer, between, singular, that_are,
};
use super::super::task::{Draft, indented};
use super::{end, is, map, mapped, test};
use crate::random::Random;

/// A phrase of a table that has one of these keys.
fn one_of(random: &mut Random, table: &'static [Phrase], keys: &[&str]) -> &'static Phrase {
    let key = *random.choose(keys);
    table.iter().find(|phrase| phrase.key == key).expect("the keys are those of the table")
}

fn reducer_of(random: &mut Random, keys: &[&str]) -> &'static Reducer {
    let key = *random.choose(keys);
    NUMBER_REDUCERS.iter().find(|reducer| reducer.key == key).expect("the keys are those of the table")
}

/// The digits of a number, from right to left.
pub(super) fn digits(random: &mut Random) -> Draft {
    let input = |random: &mut Random| {
        let digits = *random.choose(&[1, 2, 3, 5, 6, 7, 8]);
        vec![Value::Int(between(random, 0, 10_i64.pow(digits)))]
    };
    let mut draft = Draft::new("digits", "n", Box::new(input));
    let mut constants = Constants::draw(random);
    let low = between(random, 0, 4);
    for (name, value) in
        [("k", between(random, 1, 7)), ("a", low), ("b", low + between(random, 2, 5)), ("m", between(random, 3, 4))]
    {
        constants.set(name, value);
    }
    let tests = ["even", "odd", "gt", "lt", "ge", "le", "div", "ndiv", "between", "prime", "square"];
    let test = one_of(random, NUMBER_TESTS, &tests);
    draft.need(test.helper);
    let code = constants.fill(test.code).replace("{x}", "d");
    // Reads the digits in the order of the loop, so it gives the number reversed.
    let number = Reducer {
        key: "num",
        words: "the number formed (from right to left) by",
        start: &["num = 0"],
        update: &["num = num * 10 + {v}"],
        result: "num",
        outcome: Outcome::Number,
    };
    let reducer = if random.below(9) == 0 {
        &number
    } else {
        reducer_of(random, &["sum", "prod", "count", "max", "min", "list", "uniq", "alt"])
    };
    let plain = matches!(reducer.key, "count" | "num");
    let map = if plain {
        &NUMBER_MAPS[0]
    } else {
        one_of(random, NUMBER_MAPS, &["id", "id", "id", "sq", "dbl", "add", "mul", "mod"])
    };
    let stop = *random.choose(&["no", "no", "stop"]);
    draft.key(&[stop, test.key, map.key, reducer.key]);
    let opening = *random.choose(&[
        "Given a non-negative integer n, find",
        "For an integer n, compute",
        "Take the digits of n from right to left. Return",
    ]);
    let (words, map_words) = (constants.fill(test.words), mapped(&constants, map));
    draft.say(format!("{opening} {} the digits that are {words}{map_words}.", reducer.words));
    let mut body = vec!["d = n % 10".to_owned(), "n //= 10".to_owned()];
    if stop == "stop" {
        let digit = between(random, 0, 9);
        body.extend([format!("if d == {digit}:"), "    break".to_owned()]);
        draft.say(format!("Stop at the first digit {digit}."));
    }
    body.push(format!("if {code}:"));
    body.extend(indented(reducer.update(&constants.fill(map.code).replace("{x}", "d"), map.key != "id")));
    let guard = *random.choose(&["no", "no", "small"]);
    let (bound, value) = (*random.choose(&[10, 50, 100]), *random.choose(&[0, -1]));
    if guard == "small" {
        draft.lines([format!("if n < {bound}:"), format!("    return {value}")]);
    }
    draft.key(&[guard]);
    draft.lines(reducer.start.iter().copied());
    draft.lines(["while n > 0:"]);
    draft.lines(indented(body));
    end(random, &mut draft, reducer.result, reducer.outcome);
    if guard == "small" {
        draft.say(format!("Return {value} if n is less than {bound}."));
    }
    draft
}

/// The integers from `a` to `b`.
pub(super) fn range(random: &mut Random) -> Draft {
    let input = |random: &mut Random| {
        let a = between(random, 0, 60);
        vec![Value::Int(a), Value::Int(a + between(random, -4, 40))]
    };
    let mut draft = Draft::new("ranges", "a, b", Box::new(input));
    let mut constants = Constants::draw(random);
    constants.set("k", between(random, 5, 25));
    let test = loop {
        let test = random.choose(NUMBER_TESTS);
        // Nearly all integers of these ranges are positive.
        if !matches!(test.key, "pos" | "neg") {
            break test;
        }
    };
    draft.need(test.helper);
    let code = constants.fill(test.code).replace("{x}", "i");
    let reducer = reducer_of(random, &["sum", "count", "list", "last", "alt", "max", "uniq", "pref"]);
    let map = if reducer.key == "count" { &NUMBER_MAPS[0] } else { map(random, NUMBER_MAPS) };
    draft.need(map.helper);
    let update = reducer.update(&constants.fill(map.code).replace("{x}", "i"), map.key != "id");
    let direction = *random.choose(&["up", "up", "down", "step"]);
    let step = between(random, 2, 4);
    draft.key(&[direction, test.key, map.key, reducer.key]);
    let opening = *random.choose(&[
        "Given integers a and b, find",
        "For the numbers from a to b, return",
        "Consider the integers from a to b inclusive. Compute",
    ]);
    let words = that_are(&constants.fill(test.words));
    draft.say(format!(
        "{opening} {} the integers from a to b inclusive {words}{}.",
        reducer.words,
        mapped(&constants, map)
    ));
    let guard = *random.choose(&["no", "swap", "bad"]);
    match guard {
        "swap" => {
            draft.lines(["if a > b:", "    a, b = b, a"]);
            draft.say("Swap a and b if a is larger.");
        }
        "bad" => {
            draft.lines(["if a > b:", "    return -1"]);
            draft.say("Return -1 if a is larger than b.");
        }
        _ => {}
    }
    draft.key(&[guard]);
    draft.lines(reducer.start.iter().copied());
    match direction {
        "down" => {
            draft.lines(["for i in range(b, a - 1, -1):"]);
            draft.say("Go from b down to a.");
        }
        "step" => {
            draft.lines([format!("for i in range(a, b + 1, {step}):")]);
            draft.say(format!("Go up in steps of {step}."));
        }
        _ => draft.lines(["for i in range(a, b + 1):"]),
    }
    let mut body = vec![format!("if {code}:")];
    body.extend(indented(update));
    if random.below(3) == 0 {
        let result = reducer.result;
        let limit = if reducer.key == "sum" { between(random, 20, 90) } else { between(random, 2, 6) };
        let stop = match reducer.key {
            "sum" => Some((format!("{result} >= {limit}"), format!("Stop once the sum is at least {limit}."))),
            "count" => Some((format!("{result} >= {limit}"), format!("Stop once {limit} are found."))),
            "list" | "pref" => {
                Some((format!("len({result}) >= {limit}"), format!("Stop once the list has {limit} items.")))
            }
            _ => None,
        };
        if let Some((test, words)) = stop {
            body.extend([format!("if {test}:"), "    break".to_owned()]);
            draft.say(words);
            draft.key(&["lim"]);
        }
    }
    draft.lines(indented(body));
    end(random, &mut draft, reducer.result, reducer.outcome);
    draft
}

/// What a number becomes while it is larger than a bound.
pub(super) fn halving(random: &mut Random) -> Draft {
    let input = |random: &mut Random| {
        let (low, high) = *random.choose(&[(-5, 30), (0, 300), (0, 2000)]);
        vec![Value::Int(between(random, low, high))]
    };
    let mut draft = Draft::new("while", "n", Box::new(input));
    let constants = Constants::draw(random);
    let first = one_of(random, NUMBER_TESTS, &["even", "odd", "div", "gt", "prime", "ends", "dsev"]);
    draft.need(first.helper);
    let p = constants.get("p");
    let steps = [
        ("half", "halve it rounding down".to_owned(), "n //= 2".to_owned()),
        ("third", "divide it by 3 rounding down".to_owned(), "n //= 3".to_owned()),
        ("sub", format!("subtract {p}"), format!("n -= {p}")),
        ("dec", "subtract 1".to_owned(), "n -= 1".to_owned()),
        ("cut", "drop the last digit".to_owned(), "n //= 10".to_owned()),
        ("subd", "subtract the digit sum".to_owned(), "n -= digit_sum(n)".to_owned()),
    ];
    let a = random.below(steps.len());
    let b = (a + 1 + random.below(steps.len() - 1)) % steps.len();
    let (a, b) = (&steps[a], &steps[b]);
    if a.0 == "subd" || b.0 == "subd" {
        draft.need(Some("digit_sum"));
    }
    let bound = between(random, 1, 12);
    let result = *random.choose(&["steps", "sum", "list", "hits"]);
    draft.key(&[first.key, a.0, b.0, result]);
    draft.say(format!(
        "Start with n. While n is more than {bound}: if n {}, {}, otherwise {}.",
        is(&constants.fill(first.words)),
        a.1,
        b.1
    ));
    let (start, update, name) = match result {
        "steps" => {
            draft.say("Return the number of steps.");
            ("steps = 0", vec!["steps += 1".to_owned()], "steps")
        }
        "sum" => {
            draft.say("Return the sum of n after every step.");
            ("total = 0", vec!["total += n".to_owned()], "total")
        }
        "list" => {
            draft.say("Return the list of n after every step.");
            ("out = []", vec!["out.append(n)".to_owned()], "out")
        }
        _ => {
            let others = Constants::draw(random);
            let (key, words, code) = test(random, NUMBER_TESTS, &others, &mut draft, "n");
            draft.key(&[&key]);
            draft.say(format!("Return how many times n is {} after a step.", singular(&words)));
            ("count = 0", vec![format!("if {code}:"), "    count += 1".to_owned()], "count")
        }
    };
    if random.uniform() < 0.4 {
        let value = *random.choose(&[0, -1]);
        draft.lines(["if n < 0:".to_owned(), format!("    return {value}")]);
        draft.say(format!("Return {value} if n is negative."));
        draft.key(&["neg"]);
    }
    draft.lines([start.to_owned(), format!("while n > {bound}:")]);
    let code = constants.fill(first.code).replace("{x}", "n");
    let mut body = vec![format!("if {code}:"), format!("    {}", a.2), "else:".to_owned(), format!("    {}", b.2)];
    body.extend(update);
    draft.lines(indented(body));
    if result == "list" && random.uniform() < 0.3 {
        draft.lines(["if len(out) > 5:", "    return out[-5:]"]);
        draft.say("If there are more than 5, return only the last 5.");
        draft.key(&["l5"]);
    }
    draft.lines([format!("return {name}")]);
    draft
}
