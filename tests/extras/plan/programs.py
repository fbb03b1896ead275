"""Programs as DTensor writes them, for tests of what is read from them."""

from __future__ import annotations

MESH = "mesh:|data=2,model=2|"

NEEDED = f"""
module attributes {{tf._default_mesh = "|data=4,model=1|0,1,2,3|0,1,2,3|/device:CPU:0"}} {{
  func.func @main(%arg0: tensor<i32>, %arg1: tensor<2x4xbf16> {{tf._layout = "a, b"}}) {{
    %cst = "tf.Const"() <{{value = dense<[[0, 1], [2, 3]]> : tensor<2x2xi32>}}> : () ->\
 tensor<2x2xi32>
    %2 = "tf.DTensorAllReduce"(%arg1, %cst) <{{reduce_op = "Add"}}> \
 {{_layout = ["sharding_specs:data, {MESH}"]}} : (tensor<2xf32>, tensor<2x2xi32>) -> tensor<2xf32>
    %3 = "tf.DTensorAllGather"(%arg1) <{{input_layout = #dtensor.layout<sharding_specs:data,model,\
 {MESH}>, output_layout = #dtensor.layout<sharding_specs:data,unsharded,\
 {MESH}>}}> : (tensor<2x4xbf16>) -> tensor<2x8xbf16>
    return %2 : tensor<2xf32>
  }}
}}
"""

# Two steps in a loop whose limit is an argument; in each of them a loop of three.
LOOPS = f"""
module {{
  func.func @main(%arg0: tensor<i32>, %arg1: tensor<8xf32>) -> tensor<8xf32> {{
    %0 = "tf.StatefulPartitionedCall"(%arg0, %arg1) <{{config = "", f = @_func_1}}> : (tensor<i32>,\
 tensor<8xf32>) -> tensor<8xf32>
    return %0 : tensor<8xf32>
  }}
  func.func private @_func_1(%arg0: tensor<i32>, %arg1: tensor<8xf32>) -> tensor<8xf32> {{
    %cst = "tf.Const"() <{{value = dense<0> : tensor<i32>}}> : () -> tensor<i32>
    %cst_0 = "tf.Const"() <{{value = dense<3> : tensor<i32>}}> : () -> tensor<i32>
    %cst_1 = "tf.Const"() <{{value = dense<1> : tensor<i32>}}> : () -> tensor<i32>
    %keys = "tf.Const"() <{{value = dense<[7, 7, 8, 8]> : tensor<4xi32>}}> : () -> tensor<4xi32>
    %0:2 = "tf.WhileRegion"(%cst, %arg1) <{{is_stateless = false}}> ({{
    ^bb0(%arg2: tensor<i32>, %arg3: tensor<8xf32>):
      %1 = "tf.Less"(%arg2, %arg0) : (tensor<i32>, tensor<i32>) -> tensor<i1>
      "tf.Yield"(%1) : (tensor<i1>) -> ()
    }}, {{
    ^bb0(%arg2: tensor<i32>, %arg3: tensor<8xf32>):
      %1:2 = "tf.WhileRegion"(%cst, %arg3) <{{is_stateless = false}}> ({{
      ^bb0(%arg4: tensor<i32>, %arg5: tensor<8xf32>):
        %3 = "tf.Identity"(%arg4) : (tensor<i32>) -> tensor<i32>
        %4 = "tf.Less"(%3, %cst_0) : (tensor<i32>, tensor<i32>) -> tensor<i1>
        "tf.Yield"(%4) : (tensor<i1>) -> ()
      }}, {{
      ^bb0(%arg4: tensor<i32>, %arg5: tensor<8xf32>):
        %3 = "tf.AddV2"(%arg4, %cst_1) : (tensor<i32>, tensor<i32>) -> tensor<i32>
        %key = "tf.Slice"(%keys, %cst, %cst_1) : (tensor<4xi32>, tensor<i32>, tensor<i32>) ->\
 tensor<1xi32>
        %values, %indices = "tf.TopKV2"(%arg5, %cst_1) : (tensor<8xf32>, tensor<i32>) ->\
 (tensor<8xf32>, tensor<8xi32>)
        %4 = "tf.CollectiveReduceV2"(%values, %cst_1, %key, %cst) <{{merge_op = "Add"}}>\
 {{_layout = ["sharding_specs:unsharded, {MESH}"]}} : (tensor<8xf32>, tensor<i32>, tensor<1xi32>,\
 tensor<i32>) -> tensor<8xf32>
        "tf.Yield"(%3, %4) : (tensor<i32>, tensor<8xf32>) -> ()
      }}) : (tensor<i32>, tensor<8xf32>) -> (tensor<i32>, tensor<8xf32>)
      %2 = "tf.AddV2"(%arg2, %cst_1) : (tensor<i32>, tensor<i32>) -> tensor<i32>
      "tf.Yield"(%2, %1#1) : (tensor<i32>, tensor<8xf32>) -> ()
    }}) : (tensor<i32>, tensor<8xf32>) -> (tensor<i32>, tensor<8xf32>)
    return %0#1 : tensor<8xf32>
  }}
}}
"""
