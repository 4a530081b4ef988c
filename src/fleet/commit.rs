//! Commits and their signatures. Those made with SSH keys are verified by `ssh-keygen` against a file of allowed signers that a person
//! names: neither the repository's configuration nor any program that it names takes part.

use super::approval::{names_one_person, ssh_keygen};
use super::error::{Result, cannot, failed};
use super::revision::{commit_of, git, text_at};
use crate::plan::{Commit, CommitFacts};
use std::path::Path;

/// Git signs commits for this (`gpg.ssh`, git-config(1)).
const NAMESPACE: &str = "git";

/// Returns the commit of an inventory as policies see it: that of a saved plan, or the last one that changed it. `signers` is a file
/// of allowed signers, or `REV:PATH`.
pub(super) fn facts(
    path: &Path,
    saved: Option<Option<&Commit>>,
    signers: Option<&str>,
) -> Result<Option<CommitFacts>> {
    let commit = match saved {
        Some(commit) => commit.cloned(),
        None => commit_of(path),
    };
    let Some(Commit { id, author, modified }) = commit else { return Ok(None) };
    let signers = signers.map(text_at).transpose()?;
    let raw = raw(path, &id);
    let (signature, signer) = match (raw.as_deref().and_then(split), signers) {
        _ if raw.is_none() => ("unverified", None),
        (None, _) => ("none", None),
        (Some((_, signature)), _) if !signature.contains("BEGIN SSH SIGNATURE") => ("unverified", None),
        (Some(_), None) => ("unverified", None),
        (Some((text, signature)), Some(signers)) => match verify(&text, &signature, &signers)? {
            Some(signer) => ("good", Some(signer)),
            None => ("bad", None),
        },
    };
    let signed = signer.is_some();
    Ok(Some(CommitFacts { id, author, modified, signed, signature: signature.to_owned(), signer }))
}

/// Returns a commit's text as git has it; `None` if the repository does not have it.
fn raw(path: &Path, id: &str) -> Option<String> {
    let folder = path.ancestors().find(|folder| folder.is_dir() && !folder.as_os_str().is_empty());
    // A saved plan names it: nothing else may reach git as an argument.
    let is_id = id.len() >= 40 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_id {
        return None;
    }
    git(folder.unwrap_or(Path::new(".")), &["cat-file", "commit", id]).ok()
}

/// Returns what of a commit is signed, and the signature; `None` if it has none.
fn split(raw: &str) -> Option<(String, String)> {
    let (mut text, mut signature) = (String::new(), None::<String>);
    let mut lines = raw.split_inclusive('\n');
    let mut inside = false;
    for line in lines.by_ref() {
        if line == "\n" {
            text.push_str(line);
            break;
        }
        let first = line.strip_prefix("gpgsig ").filter(|_| signature.is_none());
        inside = first.is_some() || inside && line.starts_with(' ');
        match (inside, first) {
            (true, Some(first)) => signature = Some(first.to_owned()),
            (true, None) => {
                if let Some(signature) = &mut signature {
                    signature.push_str(&line[1..]);
                }
            }
            (false, _) => text.push_str(line),
        }
    }
    text.extend(lines);
    Some((text, signature?))
}

/// Returns who signed a text; `None` if the signature is invalid or its key is not allowed.
fn verify(text: &str, signature: &str, signers: &str) -> Result<Option<String>> {
    let scratch = tempfile::tempdir().map_err(failed("cannot create a temporary folder"))?;
    let (allowed, signed) = (scratch.path().join("signers"), scratch.path().join("signature"));
    std::fs::write(&allowed, signers).map_err(cannot("write", &allowed))?;
    std::fs::write(&signed, signature).map_err(cannot("write", &signed))?;
    let files = [("-f", allowed.as_path()), ("-s", signed.as_path())];
    let found = ssh_keygen(&["find-principals"], &files, "")?;
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    let person = said.lines().next().filter(|_| found.status.success()).unwrap_or_default().trim();
    if !names_one_person(person) {
        return Ok(None);
    }
    let verified = ssh_keygen(&["verify", "-n", NAMESPACE, "-I", person], &files, text)?;
    Ok(verified.status.success().then(|| person.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_out_of_a_commit() {
        let raw = "tree 1\nauthor a\ngpgsig -----BEGIN SSH SIGNATURE-----\n AAA\n -----END SSH SIGNATURE-----\nencoding x\n\nsubject\n\ngpgsig not this\n";
        let (text, signature) = split(raw).expect("signed");
        assert_eq!(text, "tree 1\nauthor a\nencoding x\n\nsubject\n\ngpgsig not this\n");
        assert_eq!(signature, "-----BEGIN SSH SIGNATURE-----\nAAA\n-----END SSH SIGNATURE-----\n");
        assert!(split("tree 1\n\nsubject\n").is_none());
    }
}
