//! Tests of the command `ablate`, as a user runs it. One binary, so that it is linked once.

mod audit; // a stage done twice from nothing
mod command; // programs as stages: what they reach, and that they end
mod crash; // killed runners
mod disk; // disks that are full or read-only
mod doctor; // what a machine gives and lacks
mod flow; // stages that overlap, share units, wait for each other, fail in part
mod hostile; // programs that mean harm, and right ones that poor runners fail
mod judge; // the pipelines that judge somebody's programs
mod kinds; // what every kind must keep, over the one list
mod lab; // a folder with pipelines and a cache, and the command
mod lm; // the main job with a real model
mod query; // SQL over stages, and what is said without it
mod reuse; // what is done again after every sort of edit
mod run; // running, planning, showing
mod show; // rows that meet a condition
mod user; // an ordinary user, without root's rights
mod versions; // what the examples of all kinds give, held against their versions
mod why; // causes: plan, why, one row through every stage, the timeline
