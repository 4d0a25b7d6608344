#pragma once

#include "daemon/protocol.h"

/// The fields of the protocol's structs, by the names that they have in a line. list_fields() calls io(name, member)
/// for each, so that the writer and the reader share one list.
namespace isr {

template <class Io>
void list_fields(Io& io, ProgressLine& line) {
  io("step", line.step);
  io("done", line.done);
  io("total", line.total);
}

template <class Io>
void list_fields(Io& io, ConsoleLine& line) {
  io("console", line.text);
  io("offset", line.offset);
}

template <class Io>
void list_fields(Io& io, ImageStats& image) {
  io("name", image.name);
  io("size", image.size);
  io("changed_chunks", image.changed_chunks);
  io("read_bytes", image.read_bytes);
  io("written_bytes", image.written_bytes);
  io("reads", image.reads);
  io("writes", image.writes);
  io("flushes", image.flushes);
  io("hot_pages", image.hot_pages);
  io("read_errors", image.read_errors);
}

template <class Io>
void list_fields(Io& io, TierTotals& tier) {
  io("name", tier.name);
  io("hits", tier.hits);
  io("bytes", tier.bytes);
  io("guest_hits", tier.guest_hits);
  io("corrupt_refused", tier.corrupt_refused);
}

template <class Io>
void list_fields(Io& io, FetchStats& sources) {
  io("cache_hits", sources.cache_hits);
  io("settled_hits", sources.settled_hits);
  io("repository_fetches", sources.repository_fetches);
  io("repository_bytes", sources.repository_bytes);
  io("guest_fetches", sources.guest_fetches);
  io("corrupt_refused", sources.corrupt_refused);
  io("waiting", sources.waiting);
  io("waiting_for", sources.waiting_for);
  io("tiers", sources.tiers);
}

template <class Io>
void list_fields(Io& io, FetchingAhead& ahead) {
  io("order_chunks", ahead.order_chunks);
  io("order_chunks_here", ahead.order_chunks_here);
  io("waiting", ahead.waiting);
}

template <class Io>
void list_fields(Io& io, MemoryHere& memory) {
  io("chunks", memory.chunks);
  io("chunks_here", memory.chunks_here);
  io("offline_safe_since", memory.offline_safe_since);
}

template <class Io>
void list_fields(Io& io, SessionStats& session) {
  io("parcel", session.parcel);
  io("version", session.version);
  io("content", session.content);
  io("phase", session.phase);
  io("since", session.since);
  io("changed_bytes", session.changed_bytes);
  io("journal_bytes", session.journal_bytes);
  io("uploaded_bytes", session.uploaded_bytes);
  io("boot_pack_pages", session.boot_pack_pages);
  io("images", session.images);
  io("sources", session.sources);
  io("fetching_ahead", session.fetching_ahead);
  io("memory", session.memory);
}

template <class Io>
void list_fields(Io& io, VmStats& vm) {
  io("pid", vm.pid);
  io("state", vm.state);
  io("io_error", vm.io_error);
  io("guest_panicked", vm.guest_panicked);
  io("accelerator", vm.accelerator.name);
  io("accelerator_reason", vm.accelerator.reason);
  io("memory", vm.memory);
  io("awakening", vm.awakening);
  io("vnc", vm.vnc_socket);
}

template <class Io>
void list_fields(Io& io, Status& status) {
  io("id", status.id);
  list_fields(io, status.session);
  io("mount", status.mount);
  io("daemon_pid", status.daemon_pid);
  io("vm", status.vm);
  io("lock_lost", status.lock_lost);
  io("last_event", status.last_event);
  io("busy", status.busy);
  io("memory_waits_for", status.memory_waits_for);
}

template <class Io>
void list_fields(Io& io, BootAnswer& answer) {
  io("resumed", answer.resumed);
  io("network", answer.network);
  io("accelerator", answer.accelerator.name);
  io("accelerator_reason", answer.accelerator.reason);
  io("fetches_memory", answer.fetches_memory);
  io("boot_pack_pages", answer.boot_pack_pages);
  io("mount", answer.mount);
  io("kept_settings", answer.kept_settings);
}

template <class Io>
void list_fields(Io& io, PublishAnswer& answer) {
  io("version", answer.result.version);
  io("unchanged", answer.result.unchanged);
  io("fork", answer.result.fork);
  io("lock_lost", answer.result.is_lock_lost);
  io("uploaded_bytes", answer.result.uploaded_bytes);
  io("uploaded_objects", answer.result.uploaded_objects);
  io("uploaded", answer.uploaded);
  io("memory", answer.memory);
  io("paused_ms", answer.paused_ms);
  io("lock_returned", answer.lock_returned);
  io("kept_settings", answer.kept_settings);
}

template <class Io>
void list_fields(Io& io, VersionAnswer& answer) {
  io("version", answer.version);
  io("kept_settings", answer.kept_settings);
}

template <class Io>
void list_fields(Io& io, DoneAnswer& answer) {
  io("kept_settings", answer.kept_settings);
}

template <class Io>
void list_fields(Io& io, ConsoleAnswer& answer) {
  io("offset", answer.offset);
  io("ended", answer.ended);
}

template <class Io>
void list_fields(Io&, TypeAnswer&) {}

template <class Io>
void list_fields(Io& io, CommonPart& common) {
  io("settings", common.settings);
  io("online", common.online);
  io("steal_reason", common.steal_reason);
}

template <class Io>
void list_fields(Io& io, BootPart& boot) {
  io("network", boot.network);
  io("isolate_network", boot.isolate_network);
  io("accelerator", boot.accelerator);
  io("cdrom", boot.cdrom);
}

/// Lists the fields of a request, for each member that the request has.
template <class Io, class OneRequest>
  requires requires { OneRequest::kCommand; }
void list_fields(Io& io, OneRequest& request) {
  if constexpr (requires { request.common; }) list_fields(io, request.common);
  if constexpr (requires { request.boot; }) list_fields(io, request.boot);
  if constexpr (requires { request.prefetch; }) io("prefetch", request.prefetch);
  if constexpr (requires { request.upload; }) io("upload", request.upload);
  if constexpr (requires { request.timeout; }) io("timeout_s", request.timeout);
  if constexpr (requires { request.kill; }) io("kill", request.kill);
  if constexpr (requires { request.message; }) io("message", request.message);
  if constexpr (requires { request.offset; }) io("offset", request.offset);
  if constexpr (requires { request.follow; }) io("follow", request.follow);
  if constexpr (requires { request.text; }) io("text", request.text);
}

}  // namespace isr
