//! Grammars of names, addresses and similar values. Values of an inventory end up in argument lists, URLs and files on
//! hosts, so each kind has a grammar, and none can be parsed as an option, a path or syntax.

use std::net::{IpAddr, Ipv6Addr};

/// The longest name of DNS, and of anything else here that has no shorter limit, in characters.
const MOST_NAME: usize = 253;
/// The longest name of a network interface: IFNAMSIZ less its end (`linux/if.h`).
const MOST_INTERFACE: usize = 15;
/// The longest text about a host, in characters.
pub(super) const MOST_NOTE: usize = 256;

/// Returns whether a text is not empty, begins with a letter, a digit or one of `first`, and has only these and `more`.
fn is_made_of(text: &str, first: &str, more: &str, most: usize) -> bool {
    let begins = |c: char| c.is_ascii_alphanumeric() || first.contains(c);
    text.len() <= most
        && text.chars().next().is_some_and(begins)
        && text.chars().all(|c| begins(c) || more.contains(c))
}

/// Returns whether a text is a login name, a domain's (`CORP\eva`, `eva@corp.example`) too.
pub(crate) fn is_user(text: &str) -> bool {
    is_made_of(text, "_", ".+-@\\", 64) && !text.ends_with('\\')
}

/// What a login name is, for hints.
pub(super) const USER: &str =
    "Use letters, digits and `.`, `_`, `-`, `+`, `@`, starting with a letter or a digit";

/// Returns why no single host can have an address.
pub(super) fn host_fault(address: IpAddr) -> Option<&'static str> {
    let ipv4 = match address {
        IpAddr::V4(ipv4) => Some(ipv4),
        IpAddr::V6(ipv6) => ipv6.to_ipv4_mapped(),
    };
    match () {
        () if ipv4.is_some_and(|a| a.octets()[0] == 0) || address.is_unspecified() => {
            Some("Use the host's own address: 0.0.0.0 means any address")
        }
        () if ipv4.is_some_and(|a| a.is_broadcast() || a.octets()[0] >= 240) => {
            Some("Use the host's own address: this one is reserved or for broadcasts")
        }
        () if address.is_multicast() || ipv4.is_some_and(|a| a.is_multicast()) => {
            Some("Use the host's own address: this one is for multicast")
        }
        () => None,
    }
}

/// Returns what is wrong with an address: an IP address or a DNS name, or an alias of ssh's configuration; nothing else.
pub(crate) fn address_fault(text: &str) -> Option<&'static str> {
    let (host, zone) = text.split_once('%').map_or((text, None), |(host, zone)| (host, Some(zone)));
    if zone.is_some_and(|zone| !is_interface(zone) || host.parse::<Ipv6Addr>().is_err()) {
        return Some("Remove the zone: only link-local IPv6 addresses have one (fe80::1%eth0)");
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return host_fault(address);
    }
    if text.contains("://") {
        return Some("Remove the scheme: use 10.20.0.11 or a name");
    }
    if text.contains('/') {
        return Some("Use the address of a host, not of a network: 10.20.0.11");
    }
    if text.contains(['[', ']']) {
        return Some("Remove the brackets: fd00::11");
    }
    if text.contains(':') {
        return Some("Remove the port and set `port: 2222`");
    }
    if text.contains('@') {
        return Some("Remove the login name and set `user: ubuntu`");
    }
    if text.starts_with('-') {
        return Some("Use a name that does not start with `-`");
    }
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let last = labels.clone().next_back().unwrap_or_default();
    let number = |label: &str| {
        let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
        !label.is_empty() && label.chars().all(|c| c.is_ascii_digit())
            || hex.is_some_and(|h| h.chars().all(|c| c.is_ascii_hexdigit()))
    };
    if number(last) {
        return Some("Use four numbers from 0 to 255 without leading zeros: 10.20.0.11");
    }
    let is_label = |label: &str| is_made_of(label, "_", "-", 63) && !label.ends_with('-');
    if text.len() > MOST_NAME || !labels.into_iter().all(is_label) {
        return Some("Use an IP address or a DNS name: 10.20.0.11, cp-1.example.net");
    }
    None
}

/// Returns whether a text is a bastion: `[user@]host[:port]`, an IPv6 address with a port in brackets.
pub(crate) fn is_bastion(text: &str) -> bool {
    let (user, place) = text.rsplit_once('@').map_or((None, text), |(user, place)| (Some(user), place));
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0) && !text.starts_with('+');
    let is_place = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(host, port)| {
            host.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        }),
        None => match place.split_once(':') {
            Some((host, port)) if !port.contains(':') => address_fault(host).is_none() && is_port(port),
            _ => address_fault(place).is_none(),
        },
    };
    user.is_none_or(is_user) && is_place
}

/// Returns what is wrong with the URL of a mirror or a proxy.
pub(super) fn url_fault(text: &str) -> Option<&'static str> {
    // Less than RFC 3986 has: what TOML, shells and systemd take for syntax is left out.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!&*+,=%".contains(c);
    let Ok(url) = reqwest::Url::parse(text) else { return Some("Use a URL such as https://hub.example.net") };
    match () {
        () if !matches!(url.scheme(), "http" | "https") => {
            Some("Use a URL that starts with https:// or http://")
        }
        () if url.host_str().is_none_or(str::is_empty) => {
            Some("Use a URL with a host: https://hub.example.net")
        }
        () if !text.chars().all(plain) => {
            Some("Use a URL without spaces, quotes, `$`, `;`, `\\` and brackets")
        }
        () if !url.username().is_empty() || url.password().is_some() => {
            Some("Remove the login, which every user of a host could read")
        }
        () if url.query().is_some() || url.fragment().is_some() => Some("Remove the part after `?` or `#`"),
        () => None,
    }
}

/// Returns whether a text is a registry's host: `docker.io`, `registry.example.net:5000`.
pub(super) fn is_registry(text: &str) -> bool {
    match text.split_once(':') {
        Some((host, port)) => address_fault(host).is_none() && port.parse::<u16>().is_ok(),
        None => address_fault(text).is_none(),
    }
}

/// Returns whether a text is a proxy exception: an address, a network, a name, `.domain` or `*.domain`.
pub(super) fn is_no_proxy(text: &str) -> bool {
    let name = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text);
    text == "*" || text.parse::<ipnet::IpNet>().is_ok() || address_fault(name).is_none()
}

/// Returns whether a text is the name of a network interface.
pub(crate) fn is_interface(text: &str) -> bool {
    is_made_of(text, "_", ".-:@", MOST_INTERFACE)
}

/// Returns whether a text is the name of an environment variable.
pub(super) fn is_variable(text: &str) -> bool {
    is_made_of(text, "_", "", MOST_NAME) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Returns whether a text is the name of a kernel setting: `vm.max_map_count`, `net/ipv4/conf/eth0.100/forwarding`.
pub(super) fn is_sysctl(text: &str) -> bool {
    let parts = || text.split(['.', '/']);
    parts().count() > 1
        && parts().all(|part| is_made_of(part, "_", "-:@*", MOST_NAME))
        && !text.starts_with('*')
}

/// Returns whether a text is an absolute path that needs no quoting anywhere: not in fstab, in a unit, nor in a shell.
pub(super) fn is_path(text: &str) -> bool {
    text.len() <= 1024
        && text.starts_with('/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@:=,".contains(c))
        && !text.split('/').any(|part| part == "..")
}

/// Returns whether a path is one of the system's own, or above or inside one: nothing may be mounted there, and pods must not
/// have it.
pub(super) fn is_system_path(path: &str) -> bool {
    /// With all that is in them.
    const WHOLE: [&str; 12] =
        ["bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys"];
    /// They themselves.
    const THEMSELVES: [&str; 9] = ["", "home", "opt", "root", "tmp", "usr", "usr/local", "var", "var/lib"];
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let first = parts.first().copied().unwrap_or_default();
    let inside_usr = first == "usr" && parts.get(1).is_some_and(|second| *second != "local");
    WHOLE.contains(&first) || inside_usr || THEMSELVES.contains(&parts.join("/").as_str())
}

/// Returns whether a text is a day, or a day and a time: `2026-12-24`, `2026-12-24 18:00`, `2026-12-24T18:00Z`.
pub(super) fn is_date(text: &str) -> bool {
    text.parse::<jiff::civil::DateTime>().is_ok() || text.parse::<jiff::Timestamp>().is_ok()
}

/// Returns whether a text is a quantity of Kubernetes above 0: `4`, `500m`, `64Gi`.
pub(super) fn is_quantity(text: &str) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let units = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    text.len() <= 20 && units.contains(&unit) && number.parse::<f64>().is_ok_and(|n| n > 0.0)
}

/// What such a path is, for hints.
pub(super) const PATH: &str =
    "Use a path that starts with /, of letters, digits and `.`, `_`, `-`, `+`, `@`, `:`, `=`, `,`";

/// Returns whether a text is an image: a repository with a tag, a digest, or both.
pub(super) fn is_image(text: &str) -> bool {
    is_made_of(text, "", "._-/:@", 512) && !text.contains("..")
}

/// Returns whether a text is a Hugging Face repository, `owner/name`.
pub(super) fn is_repository(text: &str) -> bool {
    let part = |part: &str| is_made_of(part, "", "._-", 96) && !part.contains("..");
    text.split('/').count() <= 2 && text.split('/').all(part)
}

/// Returns whether a text is a revision: a commit, a tag or a branch.
pub(super) fn is_revision(text: &str) -> bool {
    is_made_of(text, "", "._-/", MOST_NAME) && !text.contains("..")
}

/// Returns whether a text is the name under which a model is served.
pub(super) fn is_served_name(text: &str) -> bool {
    is_made_of(text, "", "._-/:@+", MOST_NAME)
}

/// Returns whether a text is a kernel release, as printed by `uname -r`.
pub(super) fn is_kernel(text: &str) -> bool {
    is_made_of(text, "", "._-+~", 64)
}

/// Returns whether a text is one line of a length that a person reads.
pub(crate) fn is_note(text: &str) -> bool {
    text.chars().count() <= MOST_NOTE && !text.contains(['\n', '\r'])
}

/// Returns whether a text is a plain name, such as that of a secret or a filesystem type.
pub(super) fn is_name(text: &str) -> bool {
    is_made_of(text, "_", ".-", 63)
}

/// Returns whether a name is a DNS-1123 label.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_addresses_and_nothing_else() {
        for good in [
            "10.20.0.11",
            "fd00::11",
            "fe80::1%eth0",
            "cp-1",
            "cp-1.example.net",
            "my_alias",
            "CP1",
            "a.example.",
        ] {
            assert_eq!(address_fault(good), None, "{good}");
        }
        for bad in [
            "",
            "-oProxyCommand=x",
            "10.0.0.1:22",
            "[fd00::1]",
            "[fd00::1]:22",
            "ssh://10.0.0.1",
            "10.0.0.0/24",
            "10.0.0.010",
            "10.0.0",
            "256.1.1.1",
            "127.1",
            "0x7f000001",
            "0x7f.1",
            "a..b",
            ".a",
            "a b",
            "a;b",
            "a$b",
            "a\nb",
            "user@10.0.0.1",
            "é.example",
            "10.0.0.1%eth0",
            "fe80::1%-x",
            "a-",
            "*",
            "a,b",
            "a'b",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "239.255.255.250",
            "ff02::1",
            "::ffff:224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(address_fault(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_is_read_as_an_option_or_as_syntax() {
        type Form = (&'static str, fn(&str) -> bool, &'static [&'static str], &'static [&'static str]);
        let forms: [Form; 11] = [
            (
                "user",
                is_user,
                &["ubuntu", "ec2-user", "CORP\\eva", "eva@corp.example"],
                &["-l", "a b", "$(x)", "a\\", ""],
            ),
            (
                "bastion",
                is_bastion,
                &["jump", "eva@jump:2222", "[fd00::1]:22", "fd00::1", "eva@10.0.0.1"],
                &["-J", "jump:0", "jump:x", "a@-b", "-a@b", "jump:22:23", "jump,other", "ssh://jump", "a b"],
            ),
            ("registry", is_registry, &["docker.io", "r:5000"], &["../x", "r/x", "r\"x", "-r", "r:x"]),
            ("variable", is_variable, &["HF_TOKEN", "_x"], &["1A", "A-B", "A=B", "A B", ""]),
            (
                "sysctl",
                is_sysctl,
                &["vm.max_map_count", "net/ipv4/conf/eth0.100/forwarding"],
                &["x", "../../etc/passwd", "a..b", "-w.x", "a.b c", "a.b=c", "*.a"],
            ),
            (
                "path",
                is_path,
                &["/data/models"],
                &["data", "/a b", "/../etc", "/a/../b", "/a'b", "/a%i", "/a\\b"],
            ),
            (
                "image",
                is_image,
                &["vllm/vllm-openai:v0.11.0", "a@sha256:00"],
                &["-x", "a b", "a;b", "../a", "$a"],
            ),
            ("repository", is_repository, &["Qwen/Qwen3-8B"], &["-a/b", "a/b/c", "../b", "a b", "/a"]),
            (
                "revision",
                is_revision,
                &["main", "0a1b", "v1/x"],
                &["--upload-pack=x", "-x", "a..b", "a b", ""],
            ),
            ("served", is_served_name, &["deepseek-ai/DeepSeek-R1", "qwen"], &["-x", "a b", "a\"b", "{{x}}"]),
            ("interface", is_interface, &["bond0", "eth0.100"], &["-i", "a b", "0123456789abcdef", ""]),
        ];
        for (name, form, good, bad) in forms {
            for text in good {
                assert!(form(text), "{name}: {text}");
            }
            for text in bad {
                assert!(!form(text), "{name}: {text:?}");
            }
        }
        assert_eq!(url_fault("https://hub.example.net:5000/v2"), None);
        for bad in [
            "",
            "hub",
            "ftp://hub",
            "https://",
            "https://a\"b",
            "https://u:p@hub",
            "https://a b",
            "https://h/$(x)",
        ] {
            assert!(url_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn paths_of_the_system_are_none_for_models() {
        for path in [
            "/",
            "//",
            "/.",
            "/etc",
            "/etc/models",
            "/usr",
            "/usr/lib/x",
            "/var",
            "/var/lib/",
            "/proc/1",
            "/dev/x",
        ] {
            assert!(is_system_path(path), "{path}");
        }
        for path in [
            "/data",
            "/var/lib/provision/models",
            "/home/models",
            "/usr/local/models",
            "/opt/models",
            "/mnt",
            "/etcd",
        ] {
            assert!(!is_system_path(path), "{path}");
        }
    }

    #[test]
    fn dates_and_quantities() {
        for date in
            ["2026-12-24", "2026-12-24 18:00", "2026-12-24T18:00", "2026-12-24T18:00:00Z", "2028-02-29"]
        {
            assert!(is_date(date), "{date}");
        }
        for date in [
            "",
            "tomorrow",
            "24.12.2026",
            "2026-13-01",
            "2026-02-30",
            "2027-02-29",
            "2026-12",
            "12/24/2026",
            "18:00",
        ] {
            assert!(!is_date(date), "{date}");
        }
        for quantity in ["4", "0.5", "500m", "64Gi", "1500M"] {
            assert!(is_quantity(quantity), "{quantity}");
        }
        for quantity in ["", "0", "0Gi", "-1", "64GB", "lots", "1.2.3", "Gi", "1e400"] {
            assert!(!is_quantity(quantity), "{quantity}");
        }
    }

    proptest! {
        #[test]
        fn no_form_takes_what_begins_with_a_hyphen(rest in "\\PC{0,30}") {
            let text = format!("-{rest}");
            prop_assert!(address_fault(&text).is_some() && url_fault(&text).is_some());
            let forms: [fn(&str) -> bool; 12] = [is_user, is_bastion, is_registry, is_variable, is_sysctl, is_path,
                is_image, is_repository, is_revision, is_served_name, is_interface, is_no_proxy];
            prop_assert!(forms.iter().all(|form| !form(&text)));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = (address_fault(&text), url_fault(&text), is_bastion(&text), is_no_proxy(&text));
        }
    }
}
