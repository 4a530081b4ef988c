//! Keys of package repositories: which primary keys a file holds. Implements as much of OpenPGP (RFC 4880, RFC 9580) as
//! fingerprints need; the package manager verifies signatures. Unknown packets are rejected: a package manager might see a
//! key in them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Packet tags that a file of public keys may hold (RFC 9580 §5): signature, trust, user id, user attribute, subkey.
const BESIDE_KEYS: [u8; 5] = [2, 12, 13, 17, 14];
/// A primary key.
const PUBLIC_KEY: u8 = 6;

/// Returns the fingerprints of all primary keys of a file, armoured or binary, in upper-case hex; or why it is no file of
/// public keys and nothing else.
pub fn fingerprints(file: &[u8]) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    // The first bit of a packet is set, of text it is not.
    if file.first().is_some_and(|b| b & 0x80 != 0) {
        packets(file, &mut found)?;
    } else {
        let text = std::str::from_utf8(file).map_err(|_| "neither text nor a key".to_owned())?;
        for block in blocks(text)? {
            packets(&block, &mut found)?;
        }
    }
    if found.is_empty() { Err("it contains no key".to_owned()) } else { Ok(found) }
}

/// Returns what the armoured blocks of a text hold; nothing but blank lines may stand around them.
fn blocks(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut lines = text.lines().map(str::trim_end);
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        match line {
            "" => continue,
            BEGIN => {}
            _ => return Err("it contains something other than keys".to_owned()),
        }
        // Headers, up to a blank line; gpg leaves both out at times.
        let mut body = String::new();
        let mut headers = true;
        loop {
            let line = lines.next().ok_or_else(|| "a key in it is truncated".to_owned())?;
            match line {
                END => break,
                "" => headers = false,
                header if headers && header.contains(": ") => {}
                // A checksum of the block, which is no protection against an attacker.
                sum if sum.len() == 5 && sum.starts_with('=') => headers = false,
                line => {
                    headers = false;
                    body += line;
                }
            }
        }
        blocks.push(STANDARD.decode(&body).map_err(|_| "a key in it is not valid base64".to_owned())?);
    }
    Ok(blocks)
}

/// Takes bytes off the front.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest.split_at_checked(count).ok_or_else(|| "it is truncated".to_owned())?;
    *rest = left;
    Ok(taken)
}

/// Takes a big-endian number of up to four bytes off the front.
fn number(rest: &mut &[u8], bytes: usize) -> Result<usize, String> {
    Ok(take(rest, bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

/// Adds the fingerprints of the primary keys among packets.
fn packets(mut rest: &[u8], found: &mut Vec<String>) -> Result<(), String> {
    let before = found.len();
    while !rest.is_empty() {
        let head = number(&mut rest, 1)?;
        let (tag, length) = match head {
            head if head & 0x80 == 0 => return Err("it contains an invalid OpenPGP packet".to_owned()),
            head if head & 0x40 != 0 => (head & 0x3f, new_length(&mut rest)?),
            head => match head & 3 {
                3 => return Err("a packet in it has no length".to_owned()),
                bytes => ((head >> 2) & 0xf, number(&mut rest, 1 << bytes)?),
            },
        };
        let body = take(&mut rest, length)?;
        match u8::try_from(tag) {
            Ok(PUBLIC_KEY) => found.push(fingerprint(body)?),
            Ok(tag) if BESIDE_KEYS.contains(&tag) && found.len() > before => {}
            _ => return Err(format!("it contains a packet of type {tag}, which public keys do not have")),
        }
    }
    Ok(())
}

/// Returns the length of a packet of the new format.
fn new_length(rest: &mut &[u8]) -> Result<usize, String> {
    match number(rest, 1)? {
        short @ 0..=191 => Ok(short),
        long @ 192..=223 => Ok(((long - 192) << 8) + number(rest, 1)? + 192),
        255 => number(rest, 4),
        _ => Err("a packet in it has no length".to_owned()),
    }
}

/// Returns the fingerprint of a key of version 4: SHA-1 over 0x99, its length in two bytes, and itself.
fn fingerprint(body: &[u8]) -> Result<String, String> {
    let length = u16::try_from(body.len()).map_err(|_| "a key in it is too long".to_owned())?;
    match body.first() {
        Some(4) if body.len() > 6 => {}
        Some(4) | None => return Err("a key in it is truncated".to_owned()),
        Some(version) => return Err(format!("a key in it has version {version}, not 4")),
    }
    let mut hash = Sha1::new();
    hash.update([0x99]);
    hash.update(length.to_be_bytes());
    hash.update(body);
    Ok(hash.finalize().iter().map(|b| format!("{b:02X}")).collect())
}

/// Returns why a file has other keys than those pinned.
pub(super) fn refusal(file: &[u8], pinned: &[String]) -> Option<String> {
    let expected = pinned.join(" or ");
    match fingerprints(file) {
        Ok(found) => {
            let other: Vec<&str> = found.iter().filter(|f| !pinned.contains(f)).map(String::as_str).collect();
            (!other.is_empty())
                .then(|| format!("it contains the key {}, expected {expected}", other.join(", ")))
        }
        Err(why) => Some(format!("{why}; expected the key {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet body of a key of version 4: made up, as only its bytes count.
    fn key(seed: u8) -> Vec<u8> {
        let mut body = vec![4, 0x5f, 0, 0, 0, 1];
        body.extend(std::iter::repeat_n(seed, 300));
        body
    }

    /// A packet of the old format, with a length of so many bytes.
    fn old(tag: u8, bytes: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_be_bytes();
        let mut packet = vec![0x80 | tag << 2 | bytes.trailing_zeros() as u8];
        packet.extend(&length[4 - usize::from(bytes)..]);
        packet.extend(body);
        packet
    }

    /// A packet of the new format.
    fn new(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xc0 | tag];
        match body.len() {
            short @ 0..=191 => packet.push(short as u8),
            long @ 192..=8383 => {
                packet.extend([((long - 192) >> 8) as u8 + 192, ((long - 192) & 0xff) as u8])
            }
            huge => {
                packet.push(255);
                packet.extend((huge as u32).to_be_bytes());
            }
        }
        packet.extend(body);
        packet
    }

    fn armoured(packets: &[u8]) -> String {
        let text = STANDARD.encode(packets);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
        format!("{BEGIN}\nVersion: GnuPG v1\n\n{}\n=AbCd\n{END}\n", lines.join("\n"))
    }

    /// By another road: sha1 over the hashed form, put together by hand.
    fn expected(seed: u8) -> String {
        let mut hashed = vec![0x99, 0x01, 0x32];
        hashed.extend(key(seed));
        Sha1::digest(&hashed).iter().map(|b| format!("{b:02X}")).collect()
    }

    #[test]
    fn every_primary_key_of_every_block_and_form_is_found() {
        let one =
            [old(6, 2, &key(1)), old(13, 1, b"someone"), old(2, 2, &[0; 300]), old(14, 2, &key(9))].concat();
        let two = [new(6, &key(2)), new(13, b"other"), new(14, &key(8))].concat();
        let huge = [old(6, 4, &key(3)), new(17, &[0; 9000])].concat();
        let (a, b, c) = (expected(1), expected(2), expected(3));
        for (file, found) in [
            (one.clone(), vec![&a]),
            (two.clone(), vec![&b]),
            ([one.clone(), two.clone(), huge.clone()].concat(), vec![&a, &b, &c]),
            (armoured(&one).into_bytes(), vec![&a]),
            ((armoured(&one) + "\n" + &armoured(&[two, huge].concat())).into_bytes(), vec![&a, &b, &c]),
            (armoured(&one).replace('\n', "\r\n").into_bytes(), vec![&a]),
        ] {
            assert_eq!(fingerprints(&file).expect("keys").iter().collect::<Vec<_>>(), found);
        }
    }

    #[test]
    fn a_file_with_anything_else_is_refused() {
        let good = old(6, 2, &key(1));
        let mut version = key(1);
        version[0] = 6;
        let text = armoured(&good);
        for (file, why) in [
            (Vec::new(), "contains no key"),
            (b"<html>not found</html>".to_vec(), "something other than keys"),
            ((text.clone() + "more").into_bytes(), "something other than keys"),
            (text.replace(END, "").into_bytes(), "truncated"),
            (text.replace("=AbCd", "=A=Cd!").into_bytes(), "not valid base64"),
            ([good.clone(), vec![0x20, 0x20]].concat(), "invalid OpenPGP packet"),
            ([good.clone(), vec![0x99, 0xff]].concat(), "truncated"),
            (good[..good.len() - 1].to_vec(), "truncated"),
            (old(6, 2, &version), "version 6"),
            (old(5, 2, &key(1)), "type 5"),
            (old(13, 1, b"no key before it"), "type 13"),
            (vec![0x9b, 1, 2], "no length"),
            (vec![0xc6, 0xe1, 0], "no length"),
        ] {
            let said = refusal(&file, &[expected(1)]).expect(why);
            assert!(said.contains(why) && said.contains(&expected(1)), "{said}");
        }
    }

    #[test]
    fn only_pinned_keys_pass() {
        let both = [old(6, 2, &key(1)), old(6, 2, &key(2))].concat();
        assert_eq!(refusal(&both, &[expected(1), expected(2)]), None);
        let said = refusal(&both, &[expected(1)]).expect("another key");
        assert_eq!(said, format!("it contains the key {}, expected {}", expected(2), expected(1)));
    }

    proptest::proptest! {
        /// Whatever comes, it answers.
        #[test]
        fn any_bytes_are_answered(mut bytes: Vec<u8>, first: u8) {
            let _ = fingerprints(&bytes);
            bytes.insert(0, first | 0x80);
            let _ = fingerprints(&bytes);
            let _ = fingerprints(armoured(&bytes).as_bytes());
        }
    }
}
