"""Gates choose the experts of tokens and their weights. `mtfrun.models.moe` exports them.

    file                     class               paper
    top_2.py                 Top2                Shazeer et al. 2017; GShard, Lepikhin et al. 2020
    top_2.py                 Top2V1              Mesh TensorFlow's first version of it
    top_2.py                 TruncatedTop2       Mesh TensorFlow's second choices that look ahead
    top_k.py                 TopK                Mixtral, Jiang et al. 2024
    top_k.py                 TopN                Shazeer et al. 2017
    switch.py                Switch              Switch Transformer, Fedus et al. 2021
    batch_prioritized.py     BatchPrioritized    V-MoE, Riquelme et al. 2021
    no_token_left_behind.py  NoTokenLeftBehind   Switch Transformer, appendix B
    expert_choice.py         ExpertChoice        Zhou et al. 2022

Beside them: the interface, load balancing loss and router z-loss in gate.py, the policies of second
experts in top_2.py. The slots of tokens: ../capacity.py.
"""
