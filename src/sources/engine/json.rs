//! Long lists in JSON, one item at a time: a repository of ten million entries is described in gigabytes.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::manifest::sorter::SortError;

/// A list that was not read to its end.
#[derive(Debug)]
pub(in crate::sources) enum EachError {
    /// It is not what was expected.
    Json(serde_json::Error),
    /// Whoever took the items failed.
    Each(SortError),
}

/// Calls `each` with every item of the lists that stand under `key`, in an object or in a list of objects.
pub(in crate::sources) fn each_in<T: DeserializeOwned>(
    from: &mut impl Read,
    key: &str,
    each: &mut dyn FnMut(T) -> Result<(), SortError>,
) -> Result<(), EachError> {
    let mut failed = None;
    let mut deserializer = serde_json::Deserializer::from_reader(from);
    let read = Outer { key, each, failed: &mut failed, item: PhantomData }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    match (failed, read) {
        (Some(error), _) => Err(EachError::Each(error)),
        (None, Err(error)) => Err(EachError::Json(error)),
        (None, Ok(())) => Ok(()),
    }
}

/// The objects around the list.
struct Outer<'e, T> {
    key: &'e str,
    each: &'e mut dyn FnMut(T) -> Result<(), SortError>,
    failed: &'e mut Option<SortError>,
    item: PhantomData<T>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Outer<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Outer<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {:?}, or a list of such objects", self.key)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut objects: A) -> Result<(), A::Error> {
        let Self { key, each, failed, .. } = self;
        while objects
            .next_element_seed(Outer { key, each: &mut *each, failed: &mut *failed, item: PhantomData })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self { key, each, failed, .. } = self;
        while let Some(name) = object.next_key::<String>()? {
            if name == key {
                object.next_value_seed(Items { each: &mut *each, failed: &mut *failed })?;
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The list.
struct Items<'e, T> {
    each: &'e mut dyn FnMut(T) -> Result<(), SortError>,
    failed: &'e mut Option<SortError>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Items<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Items<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    /// An empty list of a program in Go.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            if let Err(error) = (self.each)(item) {
                *self.failed = Some(error);
                return Err(serde::de::Error::custom("the item could not be taken"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Result<Vec<u32>, EachError> {
        let mut numbers = Vec::new();
        let mut each = |number| {
            numbers.push(number);
            Ok(())
        };
        each_in(&mut text.as_bytes(), "n", &mut each).map(|()| numbers)
    }

    #[test]
    fn items_are_found_in_objects_and_lists_of_objects() {
        assert_eq!(numbers(r#"{"a":[{"n":[9]}],"n":[1,2],"b":3}"#).unwrap(), [1, 2]);
        assert_eq!(numbers(r#"[{"n":[1]},{"n":null},{"n":[2]}]"#).unwrap(), [1, 2]);
        assert_eq!(numbers("[]").unwrap(), [0_u32; 0]);
    }

    #[test]
    fn a_cut_list_is_an_error() {
        for text in ["", r#"{"n":[1,2"#, r#"{"n":[1]} x"#, r#"{"n":"one"}"#, "7"] {
            assert!(matches!(numbers(text), Err(EachError::Json(_))), "{text}");
        }
    }

    #[test]
    fn a_failure_of_the_taker_comes_back() {
        let mut each = |_: u32| Err(SortError::Record("full"));
        let error = each_in(&mut &br#"{"n":[1]}"#[..], "n", &mut each).unwrap_err();
        assert!(matches!(error, EachError::Each(SortError::Record("full"))), "{error:?}");
    }
}
