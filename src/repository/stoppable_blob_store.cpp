#include "base/stop.h"
#include "repository/blob_store.h"

namespace isr {
namespace {

class StoppableStore : public BlobStore {
 public:
  StoppableStore(BlobStorePtr inner, std::stop_token stop)
      : BlobStore(inner->describe(), inner->writable()), inner_(std::move(inner)), stop_(std::move(stop)) {}

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    return inner_->get(name, range, EitherStop(stop_, std::move(stop)).token());
  }
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override {
    return inner_->stat(name, EitherStop(stop_, std::move(stop)).token());
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    return inner_->put_new(name, bytes, EitherStop(stop_, std::move(stop)).token());
  }
  void put_hint(std::string_view name, ByteView bytes, std::stop_token stop) override {
    inner_->put_hint(name, bytes, EitherStop(stop_, std::move(stop)).token());
  }
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override {
    return inner_->list_page(prefix, after, EitherStop(stop_, std::move(stop)).token());
  }
  bool remove(std::string_view name) override { return inner_->remove(name); }

 private:
  BlobStorePtr inner_;
  std::stop_token stop_;
};

}  // namespace

BlobStorePtr make_stoppable(BlobStorePtr inner, std::stop_token stop) {
  return std::make_shared<StoppableStore>(std::move(inner), std::move(stop));
}

}  // namespace isr
