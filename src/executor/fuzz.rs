//! Output of a host, for fuzzing (`crate::fuzz`). No part of the interface.

use super::frame::Sections;
use super::kind::QueryResult;
use super::progress::Progress;
use super::{facts, look};
use crate::event::Events;
use crate::state::SecretText;

/// Parses text as facts and as the result of a query.
pub fn query_output(text: &str) {
    if let Some(sections) = Sections::parse(text) {
        let _ = facts::parse(&sections);
        let _ = QueryResult::parse(&sections);
    }
    let looks = super::support_looks();
    let _ = look::read(&looks, text);
}

/// Reads the output of a batch, in packets of every size up to the first byte's.
pub fn output(data: &[u8]) {
    let (events, mut receiver) = Events::channel();
    let secrets = [SecretText::new("secret")];
    let mut progress = Progress::new("h-1".to_owned(), "/var/lib/provision", &events, &[], &secrets);
    let mut offset = 0;
    let size = data.first().map_or(1, |n| usize::from(*n).max(1));
    for packet in data.chunks(size) {
        if progress.feed(packet, &mut offset).is_some() {
            break;
        }
        let _ = progress.left();
        while receiver.try_recv().is_ok() {}
    }
    assert!(offset <= data.len() as u64, "more was counted than was fed");
}
