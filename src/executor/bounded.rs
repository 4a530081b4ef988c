//! Bounded output of a program: a host with endless output must not exhaust this machine.

/// The most output of one stream before the program is stopped, in bytes.
const MOST_SAID: u64 = 64 << 20;

/// A stream of a program: its beginning, and how much there was.
pub(super) struct Bounded {
    kept: Vec<u8>,
    most: usize,
    said: u64,
}

impl Bounded {
    /// Keeps at most so many bytes of the beginning.
    pub(super) fn new(most: usize) -> Self {
        Self { kept: Vec::new(), most, said: 0 }
    }

    /// Takes a piece.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.said = self.said.saturating_add(bytes.len() as u64);
        let room = self.most.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
    }

    /// Returns whether the output exceeded the limit.
    pub(super) fn is_flood(&self) -> bool {
        self.said > MOST_SAID
    }

    /// Returns what was kept as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

/// Buffered standard error of a shell and sudo: a few lines, in bytes.
pub(super) const MOST_STDERR: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_kept_and_a_flood_is_detected() {
        let mut stream = Bounded::new(5);
        stream.push(b"sudo: a password");
        assert_eq!((stream.text().as_str(), stream.is_flood()), ("sudo:", false));
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..MOST_SAID >> 20 {
            stream.push(&piece);
        }
        assert!(stream.is_flood() && stream.text() == "sudo:");
    }
}
