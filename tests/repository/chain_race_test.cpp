#include <functional>
#include <utility>

#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "repository/chain_host.h"
#include "repository/sequence.h"
#include "support/fault_store.h"
#include "support/memory_store.h"

namespace isr {

using test::Host;
using test::kId;
using test::kind_thrown_by;
using test::make_head;
using test::MemoryStore;
using test::owner;
using test::text_bytes;

TEST_CASE("one of two hosts that publish the same number wins, and the other keeps a fork", "[repository]") {
  const TempDirectory directory;
  const auto store = make_directory_store(directory.path());
  Host a(store);
  Host b(store);
  a.publish_up_to(1);
  const Sha256 first = b.chain.newest()->hash;
  for (std::uint64_t n = 2; n < 6; ++n) {
    const Sha256 prev = n == 2 ? first : a.chain.newest()->hash;
    b.chain.newest();
    const Bytes from_a = make_head(n, prev, "a");
    const Bytes from_b = make_head(n, prev, "b");
    std::optional<StoredHead> result_a;
    std::optional<StoredHead> result_b;
    {
      const std::jthread one([&] { result_a = a.chain.publish(n, from_a); });
      const std::jthread two([&] { result_b = b.chain.publish(n, from_b); });
    }
    CHECK(result_a.has_value() != result_b.has_value());
    const auto newest = a.chain.newest();
    CHECK((newest->blob == (result_a ? from_a : from_b)));
    CHECK((b.chain.newest()->hash == newest->hash));
  }
  SECTION("the fork can be found and read") {
    const Bytes lost = make_head(6, first, "b");
    const std::string name = b.chain.keep_fork(6, lost);
    CHECK_THAT(name, Catch::StartsWith("b-") && Catch::EndsWith("/6"));
    CHECK(b.chain.keep_fork(6, lost) == name);
    CHECK((a.chain.forks() == std::vector<std::string>{name}));
    CHECK((a.chain.read_fork(name)->blob == lost));
    CHECK_FALSE(a.chain.read_fork("c-0000/6").has_value());
    for (const char* bad : {"",
                            "x",
                            "x/",
                            "/6",
                            "../6",
                            "x/-1",
                            "x/0",
                            "x/99999999999999999999",
                            "x/y/6",
                            "x/6",
                            "x-/6",
                            "x-3f2/6",
                            "x-3F2A/6",
                            "-3f2a/6",
                            "x-3f2a/",
                            "x-3f2a/0",
                            "x-3f2a/0000",
                            "x/y-3f2a/6",
                            "x-3f2a/6/7",
                            "X-3f2a/6"}) {
      INFO(bad);
      CHECK(kind_thrown_by([&] { a.chain.read_fork(bad); }) == ErrorKind::kUsage);
    }
  }
}

TEST_CASE("publish loses the race when another process of this host has seen more since newest()", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  Host laptop(store);
  host.publish_up_to(1);
  Chain other_process(store, kId, owner().public_key, host.trust);
  const auto second = [&](const std::string& name) { return make_head(2, host.chain.read(1)->hash, name); };
  const Bytes ours = second("desk-42");

  SECTION("the version of another host") {
    CHECK(laptop.publish_next("laptop")->head.n == 2);
    if (GENERATE(false, true)) CHECK(laptop.publish_next("laptop")->head.n == 3);
    other_process.newest();
    CHECK_FALSE(host.chain.publish(2, ours).has_value());
    CHECK(host.chain.newest()->head.host == "laptop");
  }
  SECTION("a version that the other process has published") {
    REQUIRE(other_process.publish(2, second("other")));
    CHECK_FALSE(host.chain.publish(2, ours).has_value());
  }
  SECTION("but not when that version is gone since, or is another one") {
    CHECK(laptop.publish_next("laptop")->head.n == 2);
    other_process.newest();
    store->overwrite(head_name(kId, 2), second("fork"));
    CHECK(kind_thrown_by([&] { host.chain.publish(2, ours); }) == ErrorKind::kHistory);
    store->remove(head_name(kId, 2));
    CHECK(kind_thrown_by([&] { host.chain.publish(2, ours); }) == ErrorKind::kHistory);
    CHECK_FALSE(store->stat(head_name(kId, 2)).has_value());
  }
  SECTION("and wins it when other hosts have already published after ours") {
    store->put_new(head_name(kId, 2), ours);
    CHECK(laptop.publish_next("laptop")->head.n == 3);
    other_process.newest();
    CHECK((host.chain.publish(2, ours)->blob == ours));
    CHECK(host.chain.newest()->head.n == 3);
  }
}

TEST_CASE("publish succeeds when another process of this host sees a later version before it remembers ours",
          "[repository]") {
  class WatchedStore : public MemoryStore {
   public:
    PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
      const PutResult result = MemoryStore::put_new(name, bytes, stop);
      if (const auto then = std::exchange(then_, nullptr)) then();
      return result;
    }
    std::function<void()> then_;
  };
  const auto store = std::make_shared<WatchedStore>();
  Host host(store);
  Host laptop(store);
  host.publish_up_to(1);
  Chain other_process(store, kId, owner().public_key, host.trust);
  store->then_ = [&] {
    laptop.publish_next("laptop");
    other_process.newest();
  };
  const auto second = host.publish_next();
  REQUIRE(second.has_value());
  CHECK(second->head.host == "desk-42");
  CHECK(host.chain.newest()->head.n == 3);
}

TEST_CASE("read_fork refuses another head in the place of a fork", "[repository]") {
  const auto store = std::make_shared<MemoryStore>();
  Host host(store);
  host.publish_up_to(1);
  const Bytes lost = make_head(2, host.chain.newest()->hash, "b");
  const std::string name = host.chain.keep_fork(2, lost);
  const std::string place = kId + "/forks/" + name.substr(0, name.find('/')) + "/0000000000000002";
  const auto refused = [&](const Bytes& other) {
    store->overwrite(place, other);
    return kind_thrown_by([&] { host.chain.read_fork(name); });
  };
  CHECK(refused(make_head(2, host.chain.newest()->hash, "c")) == ErrorKind::kCorrupt);
  CHECK(refused(make_head(2, sha256({}), "b")) == ErrorKind::kCorrupt);
  CHECK(refused(make_head(3, sha256({}), "b")) == ErrorKind::kCorrupt);
  CHECK(refused(test::flip_bit(lost, 99)) == ErrorKind::kCorrupt);
  store->overwrite(place, lost);
  CHECK((host.chain.read_fork(name)->blob == lost));
}

TEST_CASE("keep_fork gives up when the store says that every name of a fork is taken", "[repository]") {
  class TakenStore : public MemoryStore {
   public:
    PutResult put_new(std::string_view, ByteView, std::stop_token) override { return PutResult::kExists; }
  };
  Host host(std::make_shared<TakenStore>());
  CHECK(kind_thrown_by([&] { host.chain.keep_fork(6, make_head(6, sha256({}))); }) == ErrorKind::kCorrupt);
}

TEST_CASE("keep_fork fails when the store does not keep the fork", "[repository]") {
  class ForgetfulStore : public MemoryStore {
   public:
    PutResult put_new(std::string_view, ByteView, std::stop_token) override { return PutResult::kCreated; }
  };
  Host host(std::make_shared<ForgetfulStore>());
  CHECK(kind_thrown_by([&] { host.chain.keep_fork(6, make_head(6, sha256({}))); }) == ErrorKind::kCorrupt);
}

TEST_CASE("publishing survives lost answers and reruns", "[repository]") {
  const auto memory = std::make_shared<MemoryStore>();
  const auto line = std::make_shared<test::FaultStore>(memory);
  Host host(make_resolving(line, {.attempts = 5, .first_delay = std::chrono::milliseconds(0)}));
  const Bytes first = make_head(1, {});

  SECTION("an answer lost at any point") {
    for (std::size_t k = 0; k < 4; ++k) {
      for (const test::Fault fault : {test::Fault::kBefore, test::Fault::kAfter}) {
        memory->set_blobs({});
        Host again(make_resolving(line, {.attempts = 5, .first_delay = std::chrono::milliseconds(0)}));
        std::vector<test::Fault> faults(k, test::Fault::kNone);
        faults.push_back(fault);
        line->script(faults);
        CHECK(again.chain.publish(1, first));
        CHECK(again.trust->seen(kId)->n == 1);
        line->script({});
      }
    }
  }
  SECTION("a rerun after a crash before the head was remembered") {
    memory->put_new(head_name(kId, 1), first);
    CHECK(host.chain.publish(1, first));
    CHECK(host.chain.publish(1, first));
  }
  SECTION("another host's head is not remembered as ours") {
    memory->put_new(head_name(kId, 1), make_head(1, {}, "laptop"));
    CHECK_FALSE(host.chain.publish(1, first));
    CHECK_FALSE(host.trust->seen(kId).has_value());
  }
  SECTION("junk in its place does not count as another host's head") {
    memory->put_new(head_name(kId, 1), text_bytes("junk"));
    CHECK(kind_thrown_by([&] { host.chain.publish(1, first); }) == ErrorKind::kHistory);
  }
  SECTION("a head of another number or chain is not published under this one") {
    CHECK(kind_thrown_by([&] { host.chain.publish(2, first); }) == ErrorKind::kCorrupt);
    CHECK(memory->blobs().empty());
  }
}

}  // namespace isr
