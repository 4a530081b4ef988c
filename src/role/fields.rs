//! The names of the fields that an entry of a role file may have, from the types that it fills in: what serde tells a format
//! that asks for a struct.

use super::entry::FileEntry;
use crate::state::Spec;
use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

type Names = &'static [&'static str];

/// Returns the fields that an entry of a role may give of a kind of resource.
pub fn fields_of(kind: &str) -> &'static [&'static str] {
    fields(kind).unwrap_or_default()
}

/// Returns the fields of a kind of resource; `None` for a kind that is none.
pub(super) fn fields(kind: &str) -> Option<Names> {
    let seen = match kind {
        "file" => FileEntry::deserialize(Fields).err(),
        kind => Spec::deserialize(Kind(kind)).err(),
    };
    seen.and_then(|seen| seen.0)
}

/// What was asked for. Nothing is ever read, so it comes as the error.
#[derive(Debug)]
struct Seen(Option<Names>);

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing is read")
    }
}

impl std::error::Error for Seen {}

impl de::Error for Seen {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

/// Answers with the fields of a struct.
struct Fields;

impl<'de> Deserializer<'de> for Fields {
    type Error = Seen;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: Names,
        _: V,
    ) -> Result<V::Value, Seen> {
        Err(Seen(Some(fields)))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen(None))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Answers with the fields of a variant.
struct Kind<'a>(&'a str);

impl<'de> Deserializer<'de> for Kind<'_> {
    type Error = Seen;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: Names,
        visitor: V,
    ) -> Result<V::Value, Seen> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen(None))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Kind<'_> {
    type Error = Seen;
    type Variant = Variant;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Variant), Seen> {
        Ok((seed.deserialize(StrDeserializer::<Seen>::new(self.0))?, Variant))
    }
}

/// The content of a variant.
struct Variant;

impl<'de> VariantAccess<'de> for Variant {
    type Error = Seen;

    fn unit_variant(self) -> Result<(), Seen> {
        Err(Seen(None))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Seen> {
        seed.deserialize(Fields)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Seen> {
        Err(Seen(None))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: Names, _: V) -> Result<V::Value, Seen> {
        Err(Seen(Some(fields)))
    }
}
