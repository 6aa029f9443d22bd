//! MT-Bench: answers of a model to its questions, judgments of them, and the scores. All files are FastChat's.
//!
//! | step | reads | writes |
//! | --- | --- | --- |
//! | answer | `question.jsonl` | `model_answer/ID.jsonl`, and `ID.json` with its settings |
//! | judge | those, `judge_prompts.jsonl`, `reference_answer/JUDGE.jsonl` | `model_judgment/JUDGE_single.jsonl` |
//! | show | the judgments | FastChat's tables |
//!
//! Formats and rules are those of `fastchat/llm_judge` in lm-sys/FastChat.

mod answers;
mod client;
mod conversation;
mod dialogue;
mod judge;
mod judgments;
mod lines;
mod pandas;
mod python;
mod questions;
mod rating;
mod requests;
mod scores;
mod templates;

pub use answers::{Answer, AnswerFile, Choice, answer_file, models, reference_file};
pub use client::{ApiKey, Endpoint, Failure, GRACE, OPENAI, Patience, is_local};
pub use conversation::{CONVERSATIONS, Conversation};
pub use dialogue::{Answered, Interview, InterviewJob, NO_ANSWER};
pub use judge::{Desk, Judging, Outcome, judgment_file, left};
pub use judgments::{FAILED, Judgment, JudgmentFile};
pub(crate) use python::json_line;
pub use questions::{Question, Questions};
pub use rating::{NO_RATING, Rating, is_on_scale, rating};
pub use requests::{Body, JudgePrompts, Key, Material, Message, Request};
pub use scores::{CategoryScores, Doubt, ModelScores, Summary, TurnScores, summarise};
pub use templates::{Template, TemplateName};
