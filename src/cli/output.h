#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/progress.h"

namespace isr {

struct GlobalFlags;

/// stdout is the answer, stderr is talk. A closed stdout ends the program as SIGPIPE would (141).
class Output {
 public:
  explicit Output(const GlobalFlags& flags);

  bool json() const noexcept { return json_; }
  bool quiet() const noexcept { return quiet_; }
  void line(std::string_view text) const;               ///< stdout
  void raw(std::string_view text) const;                ///< exactly these bytes on stdout
  void document(const nlohmann::json& document) const;  ///< stdout, one line
  /// What a command has done: the text on stdout; with --json a summary object with these fields instead.
  void done(std::string_view text, const nlohmann::json& fields) const;
  void note(std::string_view text) const;  ///< stderr, unless quiet
  /// "isr: warning: …" on stderr, or a warning object on stdout with --json.
  void warn(std::string_view text) const;
  void error(const Error& error) const;
  /// A table: columns padded to their widest cell, last column ragged. The first row is the header.
  void table(const std::vector<std::vector<std::string>>& rows, std::string_view indent = "  ") const;

  enum class Style { kBold, kGood, kWarn, kBad, kDim };
  std::string styled(std::string_view text, Style style) const;  ///< for stdout

 private:
  friend class Progress;
  bool json_ = false;
  bool quiet_ = false;
  bool colour_stdout_ = false;
  bool colour_stderr_ = false;
  std::string progress_;
};

/// Says what went wrong as Output::error() does; the exit code. Never throws.
int report_failure(const GlobalFlags& flags, const Error& error) noexcept;
/// Text from outside as a terminal may have it: control characters and those
/// that change the direction of text are shown as \xNN.
std::string printable(std::string_view text);

/// Progress of one long command on stderr: one live line at 10 Hz on a terminal;
/// else one line at the start, every 30 s and at the end; with --json, objects on stdout.
/// Threads: any.
class Progress {
 public:
  Progress(const Output& out, std::string title);
  ~Progress();  ///< clears the live line
  /// done and total in bytes; total 0: unknown. Has the form of ProgressFn.
  void update(std::string_view step, std::uint64_t done, std::uint64_t total);
  /// Clears the live line, so that others may print.
  void clear();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// "[y/N]" for a loss that can be healed. --yes answers; Error{kUsage} without a
/// terminal; Error{kCancelled} for any other answer than y.
void confirm(const GlobalFlags& flags, const std::string& question);
/// confirm() would not fail for want of a terminal.
bool may_ask(const GlobalFlags& flags);
/// For what cannot be healed: the name must be typed, or given by --confirm NAME; --yes does not do.
void confirm_name(const GlobalFlags& flags, const std::string& question, const std::string& name,
                  const std::string& confirm_flag);

/// A path as people and scripts read it: bytes that are no UTF-8 as \xNN.
std::string printable_path(const std::filesystem::path& path);
/// "4 min ago", "yesterday", "12 Mar".
std::string describe_when(WallTime time, WallTime now);

}  // namespace isr
