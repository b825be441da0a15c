class Solution:
    def sums(self, numbers: List[int]) -> List[int]:
