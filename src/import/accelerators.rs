//! Accelerators as people write them in tables ("8x NVIDIA H100 80GB HBM3"), and the row of the catalog that they mean.

use super::found::FoundAccelerator;
use crate::catalog::{Catalog, Product};
use crate::inventory::newest;

/// Rows that a message names.
const MOST_NAMED: usize = 5;
/// More accelerators than any host has; a number above this is part of a name.
const MOST_OF_A_HOST: u32 = 128;
/// Words that tell no product from another.
const VENDORS: [&str; 8] = ["nvidia", "tesla", "aws", "amazon", "gpu", "gpus", "neuron", "tensor"];

/// Returns the words of a name, in lower case.
fn words(text: &str) -> Vec<String> {
    let text = text.to_ascii_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty() && !VENDORS.contains(word)).map(str::to_owned).collect()
}

/// Takes the number of devices off a name: `8x …`, `8 x …`, `… x8`, `8 …`.
fn counted(words: &mut Vec<String>) -> Option<u32> {
    let number = |word: &str| word.parse().ok().filter(|n| (1..=MOST_OF_A_HOST).contains(n));
    let times = |word: &String| number(word.strip_suffix('x').or_else(|| word.strip_prefix('x'))?);
    if let Some((at, count)) = words.iter().enumerate().find_map(|(at, word)| Some((at, times(word)?))) {
        words.remove(at);
        return Some(count);
    }
    let count = words.first().and_then(|word| number(word)).filter(|_| words.len() > 1)?;
    words.remove(0);
    if words.first().is_some_and(|word| word == "x") {
        words.remove(0);
    }
    Some(count)
}

/// Returns the accelerator that a text means; `count` is how many a host has, if that is said elsewhere. `None` is none at all.
pub(super) fn accelerator(text: &str, count: Option<u32>, catalog: &Catalog) -> Option<FoundAccelerator> {
    let mut words = words(text);
    if words.is_empty() || matches!(words[0].as_str(), "none" | "no" | "n" | "na" | "0") {
        return None;
    }
    let products = catalog.products();
    let slug = text.trim().to_ascii_lowercase();
    let exact: Vec<&Product> = products.iter().filter(|product| product.slug == slug).collect();
    let count = count
        .filter(|count| (1..=MOST_OF_A_HOST).contains(count))
        .or_else(|| if exact.is_empty() { counted(&mut words) } else { None });
    let fits = |product: &&Product| {
        let known: Vec<String> =
            self::words(&product.slug).into_iter().chain(self::words(&product.name)).collect();
        words
            .iter()
            .all(|word| known.contains(word) || word == "sxm" && known.iter().any(|w| w.starts_with("sxm")))
    };
    let fitting: Vec<&Product> =
        if exact.is_empty() { products.iter().filter(fits).collect() } else { exact };
    let named = || fitting.iter().take(MOST_NAMED).map(|p| p.slug.as_str()).collect::<Vec<_>>().join(", ");
    Some(match (fitting.as_slice(), count) {
        ([product], Some(count)) => match newest(catalog, product, count) {
            Some(accelerator) => FoundAccelerator::Known(accelerator),
            None => {
                FoundAccelerator::Unclear(format!("the catalog has no driver or SDK for {}", product.slug))
            }
        },
        ([product], None) => FoundAccelerator::Unclear(format!(
            "the product is {}, and how many a host has is not said",
            product.slug
        )),
        ([], _) => {
            FoundAccelerator::Unclear("the catalog has no such product: see `provision catalog`".to_owned())
        }
        (_, _) => FoundAccelerator::Unclear(format!("it can be one of {}", named())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str, count: Option<u32>) -> String {
        let catalog = Catalog::builtin().expect("the catalog");
        match accelerator(text, count, &catalog) {
            None => "none".to_owned(),
            Some(FoundAccelerator::Known(known)) => format!("{} {}", known.count(), known.product()),
            Some(FoundAccelerator::Unclear(why)) => why,
        }
    }

    #[test]
    fn names_of_people_are_found_in_the_catalog() {
        for (text, count, expected) in [
            ("8x NVIDIA H100 80GB HBM3", None, "8 h100-sxm5-80gb"),
            ("NVIDIA A100-SXM4-80GB", Some(4), "4 a100-sxm4-80gb"),
            ("L40S x4", None, "4 l40s"),
            ("2 x Tesla T4", None, "2 t4"),
            ("h100-pcie", Some(2), "2 h100-pcie"),
            ("16 Trainium2", None, "16 trainium2"),
            ("none", None, "none"),
            ("", None, "none"),
            ("L4", None, "the product is l4, and how many a host has is not said"),
            ("MI300X", Some(8), "the catalog has no such product: see `provision catalog`"),
        ] {
            assert_eq!(read(text, count), expected, "{text}");
        }
        assert!(read("H200", Some(8)).starts_with("it can be one of h200-sxm, h200-nvl"));
    }

    proptest! {
        #[test]
        fn every_product_is_found_by_its_slug(n in 0usize..200, count in 1u32..16) {
            let catalog = Catalog::builtin().expect("the catalog");
            let product = &catalog.products()[n % catalog.products().len()];
            let found = read(&product.slug, Some(count));
            let without = format!("the catalog has no driver or SDK for {}", product.slug);
            prop_assert!(found == format!("{count} {}", product.slug) || found == without, "{}", found);
        }
    }
}
