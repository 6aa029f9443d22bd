//! Conversation templates of FastChat (`conversation.py`), for models to answer in.

/// A template: how messages become the text of a prompt.
#[derive(Debug, PartialEq, Eq)]
pub struct Conversation {
    /// FastChat's name.
    pub name: &'static str,
    /// Text in front of all messages.
    front: &'static str,
    /// Text that stands for the user and for the assistant.
    roles: [&'static str; 2],
    /// Text after a role: before a message, and where the message is still to come.
    after_role: [&'static str; 2],
    /// Text after a message of the user and of the assistant.
    ends: [&'static str; 2],
    /// Text that ends an answer.
    pub stop: Option<&'static str>,
}

const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n";
const VICUNA: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. ";

const LLAMA_2: Conversation = Conversation {
    name: "llama-2",
    front: "",
    roles: ["[INST]", "[/INST]"],
    after_role: [" ", ""],
    ends: [" ", " </s><s>"],
    stop: None,
};

const ZERO_SHOT: Conversation = Conversation {
    name: "zero_shot",
    front: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the human's questions.\n### ",
    roles: ["Human", "Assistant"],
    after_role: [": ", ":"],
    ends: ["\n### ", "\n### "],
    stop: Some("###"),
};

/// The templates that a model can be asked with by name.
pub static CONVERSATIONS: [Conversation; 8] = [
    Conversation {
        name: "alpaca",
        front: ALPACA,
        roles: ["### Instruction", "### Response"],
        after_role: [": ", ":"],
        ends: ["\n\n", "</s>"],
        stop: None,
    },
    LLAMA_2,
    Conversation {
        name: "mistral",
        ends: [" ", "</s>"],
        ..LLAMA_2
    },
    Conversation {
        name: "vicuna_v1.1",
        front: VICUNA,
        roles: ["USER", "ASSISTANT"],
        after_role: [": ", ":"],
        ends: [" ", "</s>"],
        stop: None,
    },
    Conversation {
        name: "gemma",
        front: "<bos>",
        roles: ["<start_of_turn>user\n", "<start_of_turn>model\n"],
        after_role: ["", ""],
        ends: ["<end_of_turn>\n", "<end_of_turn>\n"],
        stop: Some("<end_of_turn>"),
    },
    ZERO_SHOT,
    Conversation {
        name: "one_shot",
        front: include_str!("one_shot.txt"),
        ..ZERO_SHOT
    },
    Conversation {
        name: "raw",
        front: "",
        roles: ["", ""],
        after_role: ["", ""],
        ends: ["", ""],
        stop: None,
    },
];

impl Conversation {
    /// The template with a name of FastChat's.
    pub fn named(name: &str) -> Option<&'static Self> {
        CONVERSATIONS.iter().find(|known| known.name == name)
    }

    /// The prompt for the answer to the last of the user's messages, after the answers to those before.
    ///
    /// An empty message leaves its role open and has no end, as in FastChat.
    pub fn prompt(&self, user: &[String], answers: &[String]) -> String {
        let mut text = self.front.to_owned();
        for (turn, message) in user.iter().enumerate() {
            self.push(&mut text, 0, message);
            self.push(&mut text, 1, answers.get(turn).map_or("", String::as_str));
        }
        text
    }

    fn push(&self, text: &mut String, role: usize, message: &str) {
        *text += self.roles[role];
        if message.is_empty() {
            *text += self.after_role[1];
        } else {
            *text += self.after_role[0];
            *text += message;
            *text += self.ends[role];
        }
    }
}
