// A counted suffix trie of several texts, limited in depth; see engine/suffix.py for what it is for and the two tricks in it.
// Knows numbers of tokens only. Every node is allocated by itself, so that memory comes back when texts are removed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace openarctic {

struct SuffixDraft {
  std::vector<uint32_t> tokens;
  std::vector<double> probabilities;
  int match_length = 0;
  double score = 0;
};

class SuffixTree {
 public:
  explicit SuffixTree(int depth);
  ~SuffixTree();
  SuffixTree(const SuffixTree&) = delete;
  SuffixTree& operator=(const SuffixTree&) = delete;

  void append(int64_t text, const std::vector<uint32_t>& tokens);
  void remove(int64_t text);
  bool contains(int64_t text) const { return texts_.count(text) > 0; }
  size_t count(const std::vector<uint32_t>& tokens) const;
  SuffixDraft draft(int64_t text, int limit, double alpha, double offset, double floor) const;

  int depth() const { return depth_; }
  size_t nodes() const { return nodes_; }
  size_t bytes() const { return bytes_; }

 private:
  struct Node;
  struct Text;

  void push(Text& text, uint32_t token);
  void expand(Node* leaf, int depth);
  void forget(const uint32_t* tokens, size_t size);
  void collapse(Node* node);
  void follow(Node* node, int budget, double floor, SuffixDraft* out) const;
  Node* add(Node* parent, uint32_t token, Text* text, uint32_t at);
  void resize(Node* node, int log);
  void unlink(Node* parent, Node* child);
  void drop(Node* node);
  static size_t table_bytes(const Node& node);
  static size_t text_bytes(const Text& text);

  static const size_t kNodeBytes;

  int depth_;
  size_t nodes_ = 0, bytes_ = 0;
  Node* root_;
  std::vector<Node*> scratch_;
  std::unordered_map<int64_t, std::unique_ptr<Text>> texts_;
};

}  // namespace openarctic
