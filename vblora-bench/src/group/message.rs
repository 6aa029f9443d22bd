//! Messages between ranks: what they say as JSON, and numbers.

use serde::{Serialize, de::DeserializeOwned};

use super::Message;
use crate::{Error, Result};

/// The most values of a message. MPI counts them in 32 bits with a sign.
const MAX_VALUES: usize = i32::MAX as usize;

fn check_count(values: usize) -> Result<()> {
    match values <= MAX_VALUES {
        true => Ok(()),
        false => Err(Error::Setting {
            setting: "ranks".into(),
            expected: format!(
                "at most {MAX_VALUES} values in a message, such as the factors and the head of a step"
            ),
            found: format!("{values} (fewer sites or a lower rank have fewer)"),
        }),
    }
}

/// A message with this head.
///
/// # Errors
/// There are more values than a message can have.
pub(crate) fn message<T: Serialize>(head: &T, values: Vec<f32>) -> Result<Message> {
    check_count(values.len())?;
    let head = serde_json::to_vec(head).map_err(|cause| Error::Json {
        file: "a message to another rank".into(),
        cause,
    })?;
    Ok(Message { head, values })
}

/// The head of a message from a rank.
///
/// # Errors
/// The rank has sent something else.
pub(crate) fn head<T: DeserializeOwned>(from: usize, message: &Message) -> Result<T> {
    serde_json::from_slice(&message.head).map_err(|cause| Error::RankMessage {
        rank: from,
        expected: "a message of this version".into(),
        found: cause.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_mpi_cannot_count_is_refused() {
        check_count(MAX_VALUES).unwrap();
        let error = check_count(MAX_VALUES + 1).unwrap_err().to_string();
        assert!(
            error.contains("setting ranks: expected at most 2147483647"),
            "{error}"
        );
    }
}
