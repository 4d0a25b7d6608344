#include "repository/blob_store_suite.h"
#include "support/fault_store.h"
#include "support/memory_store.h"

namespace isr {
namespace {

using test::Fault;
using test::FaultStore;
using test::kind_thrown_by;
using test::MemoryStore;
using test::text_bytes;

const RetryOptions kAtOnce{.attempts = 4, .first_delay = std::chrono::milliseconds(0)};

struct Setup {
  std::shared_ptr<MemoryStore> memory = std::make_shared<MemoryStore>();
  std::shared_ptr<FaultStore> line = std::make_shared<FaultStore>(memory);
  BlobStorePtr store = make_resolving(line, kAtOnce);
};

TEST_CASE("a store in memory keeps the contract, with and without the layer that retries", "[repository]") {
  const auto memory = std::make_shared<MemoryStore>();
  test::run_blob_store_suite([&] { return make_resolving(memory, kAtOnce); });
}

TEST_CASE("the result of a put whose answer was lost is decided by the store's content", "[repository]") {
  Setup s;
  SECTION("it had arrived: ours") {
    s.line->script({Fault::kAfter});
    CHECK(s.store->put_new("a/b", text_bytes("ours")) == PutResult::kCreated);
    CHECK(s.line->calls() == 3);  // put, put again so that it is durable, get
  }
  SECTION("it had not arrived: put again") {
    s.line->script({Fault::kBefore});
    CHECK(s.store->put_new("a/b", text_bytes("ours")) == PutResult::kCreated);
    CHECK((s.memory->get("a/b")->bytes == text_bytes("ours")));
  }
  SECTION("another was first") {
    s.memory->put_new("a/b", text_bytes("other"));
    s.line->script({Fault::kAfter});
    CHECK(s.store->put_new("a/b", text_bytes("ours")) == PutResult::kExists);
  }
  SECTION("another comes in between") {
    s.line->script({Fault::kBefore});
    s.line->set_interlude([&] { s.memory->put_new("a/b", text_bytes("other")); });
    CHECK(s.store->put_new("a/b", text_bytes("ours")) == PutResult::kExists);
  }
  SECTION("the question about it is lost too") {
    s.line->script({Fault::kAfter, Fault::kNone, Fault::kBefore});
    CHECK(s.store->put_new("a/b", text_bytes("ours")) == PutResult::kCreated);
  }
  SECTION("our second request is lost, too, and had arrived") {
    s.line->script({Fault::kBefore, Fault::kAfter});
    CHECK(s.store->put_new("a/b", text_bytes("ours")) == PutResult::kCreated);
  }
  SECTION("without a lost answer kExists stays kExists, even for the same bytes") {
    s.memory->put_new("a/b", text_bytes("ours"));
    CHECK(s.store->put_new("a/b", text_bytes("ours")) == PutResult::kExists);
  }
}

TEST_CASE("every script of lost requests and answers ends with exactly one winner", "[repository]") {
  // Two writers, one name, all scripts of three faults for the first of them.
  for (int script = 0; script < 27; ++script) {
    Setup s;
    std::vector<Fault> faults;
    for (int i = 0, rest = script; i < 3; ++i, rest /= 3) faults.push_back(static_cast<Fault>(rest % 3));
    s.line->script(faults);
    PutResult other = PutResult::kExists;
    s.line->set_interlude([&] { other = s.memory->put_new("a/b", text_bytes("other")); });
    const PutResult ours = s.store->put_new("a/b", text_bytes("ours"));
    INFO("script " << script);
    CHECK((ours == PutResult::kCreated) == (s.memory->get("a/b")->bytes == text_bytes("ours")));
    CHECK_FALSE((ours == PutResult::kCreated && other == PutResult::kCreated));
  }
}

TEST_CASE("only transient failures are retried, and only a limited number of times", "[repository]") {
  Setup s;
  s.memory->put_new("a/b", text_bytes("x"));
  SECTION("a denial at once") {
    s.line->script({Fault::kDenied});
    CHECK(kind_thrown_by([&] { s.store->get("a/b"); }) == ErrorKind::kDenied);
    CHECK(s.line->calls() == 1);
  }
  SECTION("a dead line after four attempts") {
    s.line->script(std::vector<Fault>(10, Fault::kBefore));
    CHECK(kind_thrown_by([&] { s.store->get("a/b"); }) == ErrorKind::kTransient);
    CHECK(s.line->calls() == 4);
  }
  SECTION("every kind of call") {
    for (const Fault fault : {Fault::kBefore, Fault::kAfter}) {
      s.line->script({fault});
      CHECK(s.store->get("a/b").has_value());
      s.line->script({fault});
      CHECK(s.store->stat("a/b") == 1U);
      s.line->script({fault});
      CHECK(s.store->list("a/")->size() == 1);
      s.line->script({fault});
      s.store->put_hint("a/latest", text_bytes("1"));
      CHECK(s.memory->remove("a/latest"));
    }
    s.line->script({Fault::kAfter});
    CHECK(s.store->remove("a/b"));
  }
}

TEST_CASE("a stop ends the waiting between attempts", "[repository]") {
  const auto memory = std::make_shared<MemoryStore>();
  const auto line = std::make_shared<FaultStore>(memory, std::vector<Fault>(10, Fault::kBefore));
  const auto store =
      make_resolving(line, {.attempts = 10, .first_delay = std::chrono::hours(1), .max_delay = std::chrono::hours(1)});
  std::stop_source stop;
  line->set_interlude([&] { stop.request_stop(); });
  CHECK(kind_thrown_by([&] { store->get("a/b", {}, stop.get_token()); }) == ErrorKind::kCancelled);
}

TEST_CASE("the pause between attempts grows, is capped, jittered, and honours Retry-After", "[repository]") {
  using std::chrono::milliseconds;
  const RetryOptions options{.attempts = 5, .first_delay = milliseconds(100), .max_delay = milliseconds(1000)};
  CHECK(retry_delay(1, {}, options, 0.0) == milliseconds(0));
  CHECK(retry_delay(1, {}, options, 0.5) == milliseconds(50));
  CHECK(retry_delay(2, {}, options, 0.5) == milliseconds(100));
  CHECK(retry_delay(4, {}, options, 0.5) == milliseconds(400));
  CHECK(retry_delay(5, {}, options, 0.5) == milliseconds(500));
  CHECK(retry_delay(1'000'000, {}, options, 0.5) == milliseconds(500));
  CHECK(retry_delay(1, milliseconds(7000), options, 0.9) == milliseconds(7000));
  CHECK(retry_delay(4, milliseconds(100), options, 0.5) == milliseconds(400));
}

}  // namespace
}  // namespace isr
