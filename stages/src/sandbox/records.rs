//! What a process says of its cases while it runs: records, one behind the other.

/// Is told what a process says while it runs: judging need not wait for its end, nor hold all that it says.
pub(super) trait Listener {
    /// The process begins, perhaps anew: what it said before is void.
    fn begin(&mut self);
    /// Returns whether the process is to go on; else it is ended.
    fn hear(&mut self, record: Record) -> bool;
}

/// A line of the result: what the child says of one case. The program can write here too: it speaks for itself alone.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: u8,
    pub(super) index: i64,
    pub(super) text: String,
}

/// What has been read of a result so far.
#[derive(Default)]
pub(super) struct Heard {
    /// What was read and not taken out.
    pub(super) records: Vec<Record>,
    /// The beginning of a record that is not yet there whole.
    rest: Vec<u8>,
    /// Bytes since the last whole record.
    num_unfinished: u64,
    /// Whether something else than a record was found; what comes behind it counts for nothing.
    is_nonsense: bool,
}

impl Heard {
    /// Takes in what has come.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.num_unfinished += bytes.len() as u64;
        if self.is_nonsense {
            return;
        }
        self.rest.extend_from_slice(bytes);
        let mut begin = 0;
        loop {
            match next_record(&self.rest[begin..]) {
                Ok(Some((record, length))) => {
                    self.records.push(record);
                    begin += length;
                    self.num_unfinished = (self.rest.len() - begin) as u64;
                }
                Ok(None) => break,
                Err(Nonsense) => {
                    self.is_nonsense = true;
                    begin = self.rest.len();
                    break;
                }
            }
        }
        self.rest.drain(..begin);
    }

    /// Whether more has come since the last whole record than an output may have.
    pub(super) fn is_full(&self, output_bytes: u64) -> bool {
        self.num_unfinished > output_bytes
    }

    /// Takes out what was said of cases. What a process says of itself stays, up to so much that only a flood has more.
    pub(super) fn of_cases(&mut self) -> Vec<Record> {
        let of_cases = self.records.extract_if(.., |record| !b"KL".contains(&record.kind)).collect();
        self.records.truncate(MOST_OF_ITSELF);
        of_cases
    }
}

struct Nonsense;

/// Records that a process says of itself, at most: the lines that it ran, and the signal that ended it.
const MOST_OF_ITSELF: usize = 1 << 16;
/// The longest first line of a record: its kind, the number of its case and the length of its text.
const LONGEST_HEAD: usize = 64;

/// The record that begins here and its length; none where it is not yet whole.
fn next_record(bytes: &[u8]) -> Result<Option<(Record, usize)>, Nonsense> {
    let head = &bytes[..bytes.len().min(LONGEST_HEAD)];
    let Some(end) = head.iter().position(|&byte| byte == b'\n') else {
        return if head.len() == LONGEST_HEAD { Err(Nonsense) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| Nonsense)?;
    let mut words = line.split(' ');
    let (Some(kind), Some(index), Some(length)) = (words.next(), words.next(), words.next()) else {
        return Err(Nonsense);
    };
    let (&[kind], Ok(index), Ok(length)) = (kind.as_bytes(), index.parse(), length.parse::<usize>()) else {
        return Err(Nonsense);
    };
    let start = end + 1;
    let stop = start.checked_add(length).ok_or(Nonsense)?;
    let Some(text) = bytes.get(start..stop).filter(|_| bytes.len() > stop) else { return Ok(None) };
    Ok(Some((Record { kind, index, text: String::from_utf8_lossy(text).into_owned() }, stop + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_come_until_the_first_that_is_none() {
        let mut heard = Heard::default();
        let mut say = |text: &[u8]| {
            heard.take(text);
            let records = heard.of_cases().into_iter();
            (records.map(|record| (record.kind, record.index, record.text)).collect::<Vec<_>>(), heard.num_unfinished)
        };
        assert_eq!(say(b"C 0 0\n\nR 0 3"), (vec![(b'C', 0, String::new())], 5));
        assert_eq!(say(b"\na\nb"), (vec![], 9));
        let both = vec![(b'R', 0, "a\nb".into()), (b'E', -1, "\u{fffd}".into())];
        assert_eq!(say(b"\nL 7 0\n\nE -1 1\n\xff\n"), (both, 0));
        assert_eq!(say(b"C 1 0\n\nnonsense\nC 2 0\n\n"), (vec![(b'C', 1, String::new())], 16));
        assert_eq!(say(b"C 2 0\n\n"), (vec![], 23));
        assert_eq!(heard.records.iter().map(|record| record.kind).collect::<Vec<_>>(), b"L");
        assert!(heard.is_full(22) && !heard.is_full(23));
        let mut flood = Heard::default();
        flood.take(&b"L 1 0\n\n".repeat(MOST_OF_ITSELF + 1));
        assert!(flood.of_cases().is_empty() && flood.records.len() == MOST_OF_ITSELF);
        let mut endless = Heard::default();
        endless.take(&[b'1'; 100]);
        assert!(endless.is_nonsense);
    }
}
