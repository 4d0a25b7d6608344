#include "session/session_machine.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <set>

#include "support/error_kind.h"

using namespace isr;

TEST_CASE("every pair of phase and event is a transition, the end or a named refusal", "[session]") {
  std::set<std::string_view> names;
  for (const SessionEvent event : kSessionEvents) {
    CHECK(names.insert(to_name(event)).second);
    for (const SessionPhase phase : kSessionPhases) {
      INFO(to_name(event) << " in " << to_name(phase));
      const SessionTransition& transition = session_transition(phase, event);
      CHECK(!(transition.next && !transition.refusal.empty()));
      if (!transition.next && transition.refusal.empty()) CHECK((event == SessionEvent::kEnd));
      if (transition.refusal.empty()) {
        CHECK(&require_transition(phase, event, "work") == &transition);
      } else {
        CHECK_FALSE(transition.voids_memory);
        CHECK(test::kind_thrown([&] { require_transition(phase, event, "work"); }) == ErrorKind::kVm);
      }
    }
  }
}

TEST_CASE("opening voids the memory of a crashed run, and keeps that of a suspended session", "[session]") {
  const auto opened = [](SessionPhase phase) { return session_transition(phase, SessionEvent::kOpen); };
  CHECK((opened(SessionPhase::kRunning).next == SessionPhase::kCheckedOut));
  CHECK(opened(SessionPhase::kRunning).voids_memory);
  CHECK((opened(SessionPhase::kSuspended).next == SessionPhase::kSuspended));
  CHECK_FALSE(opened(SessionPhase::kSuspended).voids_memory);
}

TEST_CASE("events keep memory unless they start a fresh guest or drop memory", "[session]") {
  for (const SessionEvent event : {SessionEvent::kResume, SessionEvent::kPublish, SessionEvent::kOpen}) {
    CHECK_FALSE(session_transition(SessionPhase::kSuspended, event).voids_memory);
  }
  // A resume that fails leaves the memory that it began from.
  CHECK((session_transition(SessionPhase::kRunning, SessionEvent::kResumeFailed).next == SessionPhase::kSuspended));
  CHECK_FALSE(session_transition(SessionPhase::kRunning, SessionEvent::kResumeFailed).voids_memory);
  CHECK(session_transition(SessionPhase::kSuspended, SessionEvent::kStart).voids_memory);
}

TEST_CASE("a running session refuses events that would take its disks or directory away", "[session]") {
  for (const SessionEvent event : {SessionEvent::kEnd, SessionEvent::kDiscard, SessionEvent::kDiscardToSuspended,
                                   SessionEvent::kPublish, SessionEvent::kStart, SessionEvent::kResume}) {
    CHECK(session_transition(SessionPhase::kRunning, event).refusal == "is running");
  }
}

TEST_CASE("phase_from_name() knows the names of all phases and no other text", "[session]") {
  for (const SessionPhase phase : kSessionPhases) CHECK((phase_from_name(to_name(phase)) == phase));
  CHECK_FALSE(phase_from_name("ready"));
  CHECK_FALSE(phase_from_name(""));
}

TEST_CASE("docs/formats/session.md shows the table of the code", "[session]") {
  std::ifstream file(ISR_DOCS_DIR "/formats/session.md");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  INFO("the table to paste there:\n" << describe_session_table());
  CHECK(text.find(describe_session_table()) != std::string::npos);
}
